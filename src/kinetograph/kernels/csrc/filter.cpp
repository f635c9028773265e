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
};

template <typename Function>
INLINE void apply(Function f, float* x, int64_t n) {
    for (int64_t i = 0; i < n; i += W) store(x + i, f(load(x + i)));
}

void activate(int64_t kind, float* x, int64_t n) {
    if (kind == 1) apply([](vf y) { return silu(y); }, x, n);
    if (kind == 2) apply([](vf y) { return gelu(y); }, x, n);
}

}  // namespace

extern "C" {

int64_t kg_filter_floats(int64_t width) { return 2 * TILE * width; }

// A network on rows (n_rows, n_in) → (n_rows, n_out of the last layer); widths are multiples of kg_width(), but
// for the first n_in. ``memory`` is for kg_filter_floats(largest width).
void kg_mlp(const Layer* layers, int64_t n_layers, int64_t n_rows, const float* rows, float* out, float* memory,
            int64_t largest) {
    for (int64_t begin = 0; begin < n_rows; begin += TILE) {
        const int64_t n = smaller(TILE, n_rows - begin);
        const float* from = rows + begin * layers[0].n_in;
        for (int64_t l = 0; l < n_layers; ++l) {
            const Layer& layer = layers[l];
            float* to = l + 1 < n_layers ? memory + (l % 2) * TILE * largest : out + begin * layer.n_out;
            product(n, from, layer.n_in, layer.weights, layer.n_in, layer.n_out, layer.bias, to, layer.n_out);
            activate(layer.activation, to, n * layer.n_out);
            from = to;
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
    float* work[2] = {memory, memory + TILE * width};
    for (int64_t begin = 0; begin < n_edges; begin += TILE) {
        const int64_t n = smaller(TILE, n_edges - begin);
        const float* from = edges + begin * layers[0].n_in;
        for (int64_t l = 0; l < n_layers; ++l) {
            const Layer& layer = layers[l];
            float* to = work[l % 2];
            product(n, from, layer.n_in, layer.weights, layer.n_in, width, layer.bias, to, width);
            if (l == meet)
                for (int64_t e = 0; e < n; ++e) {
                    const float *s = sources + neighbor[begin + e] * width, *t = targets + center[begin + e] * width;
                    for (int64_t f = 0; f < width; f += W) {
                        const vf x = load(to + e * width + f) + load(s + f) + load(t + f);
                        store(to + e * width + f, layer.activation == 1 ? silu(x) : x);
                    }
                }
            else
                activate(layer.activation, to, n * width);
            from = to;
        }
        for (int64_t e = 0; e < n; ++e) {
            float* sum = messages + center[begin + e] * width;
            const float* value = values + neighbor[begin + e] * width;
            const float by = envelope ? envelope[begin + e] : 1.0f;
            for (int64_t f = 0; f < width; f += W)
                store(sum + f, load(sum + f) + by * load(from + e * width + f) * load(value + f));
        }
    }
}
}
