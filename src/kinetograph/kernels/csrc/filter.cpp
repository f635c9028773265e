// Networks on edges whose tiles stay in cache, and the conditional filter of GAMD and ForceNet: a network of
// an edge's state and of its two ends weights what the neighbour sends,
//
//     M_i = Σ_j w_ij ∘ x_j,   w_ij = C(… silu(h_ij A + s_j + t_i) …),
//
// where the parts of its first product that belong to the ends, s and t, were made once per atom.
#include "product.h"

namespace {

constexpr int64_t TILE = 48;

struct Layer {
    const float *weights, *bias;  // packed; the bias may be null
    int64_t n_in, n_out;
    int64_t activation;           // 0 none, 1 silu, 2 gelu, applied to what it gives
    int64_t bfloat16;             // whether rows and weights are: then their sums are not
};

// A normalisation of rows: over their first ``n`` numbers, with zeros behind them.
struct Norm {
    const float *gain, *bias;     // zero behind the first n
    int64_t n;
    double epsilon;
};

// What stands at number i of rows that are kept in single precision or as bfloat16.
INLINE const float* at(const float* rows, int64_t i, int64_t bfloat16) { return rows + (bfloat16 ? i / 2 : i); }
INLINE float* at(float* rows, int64_t i, int64_t bfloat16) { return rows + (bfloat16 ? i / 2 : i); }

void multiply(const Layer& layer, int64_t n, const float* from, float* to) {
#if defined(__AVX512BF16__)
    if (layer.bfloat16) {
        product<Activation::NONE, false, Pairs>(n, from, layer.n_in / 2, layer.weights, layer.n_in / 2, layer.n_out,
                                                layer.bias, to, layer.n_out);
        return;
    }
#endif
    product(n, from, layer.n_in, layer.weights, layer.n_in, layer.n_out, layer.bias, to, layer.n_out);
}

// to[i] = f(i): in single precision, or rounded to bfloat16.
template <typename Function, typename Coarse>
INLINE void fill(Function f, Coarse coarse, int64_t n, float* to, int64_t bfloat16) {
#if defined(__AVX512BF16__)
    if (bfloat16) {
        for (int64_t i = 0; i < n; i += W) store_bfloat16(at(to, i, 1), coarse(i));
        return;
    }
#endif
    for (int64_t i = 0; i < n; i += W) store(to + i, f(i));
}

#if !defined(__AVX512BF16__)
INLINE vf silu_coarse(vf x) { return silu(x); }
INLINE vf gelu_coarse(vf x) { return gelu(x); }
#endif

void activate(int64_t kind, const float* x, int64_t n, float* to, int64_t bfloat16) {
    if (kind == 1)
        fill([x](int64_t i) { return silu(load(x + i)); }, [x](int64_t i) { return silu_coarse(load(x + i)); }, n, to,
             bfloat16);
    else if (kind == 2)
        fill([x](int64_t i) { return gelu(load(x + i)); }, [x](int64_t i) { return gelu_coarse(load(x + i)); }, n, to,
             bfloat16);
    else if (x != to) {
        const auto same = [x](int64_t i) { return load(x + i); };
        fill(same, same, n, to, bfloat16);
    }
}

void normalise(const Norm& norm, float* x, int64_t width) {
    vf total = {}, square = {};
    for (int64_t f = 0; f < width; f += W) total += load(x + f);
    const float mean = sum(total) / float(norm.n);
    for (int64_t f = 0; f < width; f += W) store(x + f, load(x + f) - mean);
    for (int64_t f = norm.n; f < width; ++f) x[f] = 0.0f;  // columns of zeros, which are no part of the row
    for (int64_t f = 0; f < width; f += W) square += load(x + f) * load(x + f);
    const float scale = 1.0f / __builtin_sqrtf(sum(square) / float(norm.n) + float(norm.epsilon));
    for (int64_t f = 0; f < width; f += W)
        store(x + f, load(x + f) * scale * load(norm.gain + f) + load(norm.bias + f));
}

// Bring a row nearer that is wanted after the next product: rows of atoms lie anywhere, those of edges far.
INLINE void fetch(const float* row, int64_t n) {
    for (int64_t f = 0; f < n; f += 16) __builtin_prefetch(row + f, 0, 2);
}

// Two tiles, of which a layer reads one and writes the other.
struct Tiles {
    float *first, *second;
    float* other(const float* tile) const { return tile == first ? second : first; }
};

}  // namespace

extern "C" {

int64_t kg_filter_floats(int64_t width) { return 2 * TILE * width; }

// A network on rows (n_rows, n_in) → (n_rows, n_out of the last layer); widths are multiples of kg_width(), but
// for the first n_in. The last rows are normalised where there is a norm, which may be null, and given as bfloat16
// where that is asked for. ``memory`` is for kg_filter_floats(largest width).
void kg_mlp(const Layer* layers, int64_t n_layers, int64_t n_rows, const float* rows, float* out, const Norm* norm,
            int64_t gives_bfloat16, float* memory, int64_t largest) {
    const Tiles tiles = {memory, memory + TILE * largest};
    const int64_t n_out = layers[n_layers - 1].n_out;
    for (int64_t begin = 0; begin < n_rows; begin += TILE) {
        const int64_t n = smaller(TILE, n_rows - begin);
        const float* from = at(rows, begin * layers[0].n_in, layers[0].bfloat16);
        for (int64_t l = 0; l < n_layers; ++l) {
            const Layer& layer = layers[l];
            const bool last = l + 1 == n_layers;
            const int64_t bfloat16 = last ? gives_bfloat16 : layers[l + 1].bfloat16;
            float* to = last && !bfloat16 ? out + begin * n_out : tiles.other(from);
            multiply(layer, n, from, to);
            if (last && norm) {
                activate(layer.activation, to, n * n_out, to, 0);
                for (int64_t e = 0; e < n; ++e) normalise(*norm, to + e * n_out, n_out);
            }
            float* next = last ? at(out, begin * n_out, bfloat16) : bfloat16 ? tiles.other(to) : to;
            activate(last && norm ? 0 : layer.activation, to, n * layer.n_out, next, bfloat16);
            from = next;
        }
    }
}

// messages (n_atoms, width) = Σ over edges of network(edge state; ends) ∘ values of the neighbour. The ends are
// added to what the product number ``meet`` gives, before its activation. ``envelope`` (n_edges,) may be null.
void kg_conditional_filter(const Layer* layers, int64_t n_layers, int64_t meet, int64_t n_atoms, int64_t n_edges,
                           int64_t width, const int64_t* center, const int64_t* neighbor, const float* edges,
                           const float* sources, const float* targets, const float* values, const float* envelope,
                           float* messages, float* memory) {
    memset(messages, 0, size_t(n_atoms * width) * sizeof(float));
    const Tiles tiles = {memory, memory + TILE * width};
    const int64_t n_in = layers[0].n_in, takes_bfloat16 = layers[0].bfloat16;
    const int64_t n_lanes = takes_bfloat16 ? n_in / 2 : n_in;
    for (int64_t begin = 0; begin < n_edges; begin += TILE) {
        const int64_t n = smaller(TILE, n_edges - begin);
        const float* from = at(edges, begin * n_in, takes_bfloat16);
        for (int64_t l = 0; l < n_layers; ++l) {
            const Layer& layer = layers[l];
            const int64_t bfloat16 = l + 1 < n_layers ? layers[l + 1].bfloat16 : 0;
            float* to = tiles.other(from);
            multiply(layer, n, from, to);
            float* next = bfloat16 ? tiles.other(to) : to;
            if (l == meet)
                for (int64_t e = 0; e < n; ++e) {
                    const float *s = sources + neighbor[begin + e] * width, *t = targets + center[begin + e] * width;
                    fetch(values + neighbor[begin + e] * width, width);
                    if (begin + n + e < n_edges) fetch(at(edges, (begin + n + e) * n_in, takes_bfloat16), n_lanes);
                    const float* x = to + e * width;
                    const auto joint = [=](int64_t f) { return load(x + f) + load(s + f) + load(t + f); };
                    float* y = at(next, e * width, bfloat16);
                    if (layer.activation == 1)
                        fill([&](int64_t f) { return silu(joint(f)); }, [&](int64_t f) { return silu_coarse(joint(f)); },
                             width, y, bfloat16);
                    else
                        fill(joint, joint, width, y, bfloat16);
                }
            else
                activate(layer.activation, to, n * width, next, bfloat16);
            from = next;
        }
        for (int64_t e = 0; e < n; ++e) {
            if (begin + n + e < n_edges) fetch(sources + neighbor[begin + n + e] * width, width);
            float* sum = messages + center[begin + e] * width;
            const float* value = values + neighbor[begin + e] * width;
            const float by = envelope ? envelope[begin + e] : 1.0f;
            for (int64_t f = 0; f < width; f += W)
                store(sum + f, load(sum + f) + by * load(from + e * width + f) * load(value + f));
        }
    }
}

// out (n_rows, stride): from column ``first`` on exp(−γ (x_row − start − k · spacing)²) for k < n_functions.
void kg_gaussians(int64_t n_rows, const float* x, int64_t n_functions, const double* start, const double* spacing,
                  const double* gamma, float* out, int64_t stride, int64_t first) {
    float lanes[W], values[W];
    for (int i = 0; i < W; ++i) lanes[i] = float(i);
    const float begin = float(*start), apart = float(*spacing), sharpness = float(-*gamma);
    for (int64_t row = 0; row < n_rows; ++row)
        for (int64_t k = 0; k < n_functions; k += W) {
            const vf d = x[row] - (begin + apart * (load(lanes) + float(k)));
            store(values, exp(sharpness * d * d));
            memcpy(out + row * stride + first + k, values, size_t(smaller(W, n_functions - k)) * sizeof(float));
        }
}
}
