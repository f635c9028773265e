// Sums over the pairs of edges that meet at an atom, of functions of the angle between them, without any list of
// pairs: by the addition theorem
//
//     Σ_m Y_lm(u) Y_lm(v) = (2l+1)/4π P_l(u·v)
//
// each pair's function is a product of two, and the sum over the other edges is made once per atom, the edge itself
// included; its own share, for which P_l is 1, is taken off again. Edges are sorted by centre.
//
// Y is there twice: (n_edges, n_lm padded to fours) and (n_lm, n_edges). Features go by blocks of a few registers; what
// is kept of a block for the n edges of an atom lies edge by edge, (n, N W), and behind each other for all l.
#include "product.h"

namespace {

constexpr int BLOCK = N_REGISTERS == 32 ? 2 : 1;
constexpr int64_t MAX_DEGREES = 10, MAX_LM = MAX_DEGREES * MAX_DEGREES;
constexpr int64_t TILE = 48;
constexpr float INV_4_PI = 0.0795774715f;

struct Harmonics {
    int64_t n_l, n_lm, stride, n_edges;  // stride of rows
    const float *rows, *columns;
};

INLINE float own_share(int64_t l) { return float(2 * l + 1) * INV_4_PI; }

struct Degrees {
    int8_t of[MAX_LM + 4];
    explicit Degrees(int64_t n_l) {
        int64_t k = 0;
        for (int64_t l = 0; l < n_l; ++l)
            for (int64_t m = 0; m < 2 * l + 1; ++m) of[k++] = int8_t(l);
        while (k < MAX_LM + 4) of[k++] = int8_t(n_l - 1);
    }
};

template <int N, int ROWS>
INLINE void moment_rows(const float* columns, int64_t n_edges, const float* values, int64_t n, float* to) {
    panel_rows<ROWS, N, Activation::NONE, false>(columns, n_edges, values, n, nullptr, to, N * W);
}

// sums (n_lm, N W) = Σ_e Y_lm,e v_l,e.
template <int N>
void moments(const Harmonics& y, int64_t begin, int64_t n, const float* values, int64_t l_stride, float* sums) {
    for (int64_t l = 0; l < y.n_l; ++l) {
        const float *c = y.columns + l * l * y.n_edges + begin, *v = values + l * l_stride;
        float* to = sums + l * l * N * W;
        switch (l) {
            case 0: moment_rows<N, 1>(c, y.n_edges, v, n, to); break;
            case 1: moment_rows<N, 3>(c, y.n_edges, v, n, to); break;
            case 2: moment_rows<N, 5>(c, y.n_edges, v, n, to); break;
            case 3: moment_rows<N, 7>(c, y.n_edges, v, n, to); break;
            case 4: moment_rows<N, 9>(c, y.n_edges, v, n, to); break;
            case 5: moment_rows<N, 11>(c, y.n_edges, v, n, to); break;
            case 6: moment_rows<N, 13>(c, y.n_edges, v, n, to); break;
            default:
                panel_all_rows<N, Activation::NONE, false>(2 * l + 1, c, y.n_edges, v, n, nullptr, to, N * W);
        }
    }
    for (int64_t i = y.n_lm * N * W; i < y.stride * N * W; i += W) store(sums + i, vf{});
}

// out (n, N W), rows ``out_stride`` apart: Σ_lm Y_lm,e sums_lm less each edge's own share.
template <int N>
void collapse(const Harmonics& y, int64_t begin, int64_t n, const float* sums, const float* values, int64_t l_stride,
              float* out, int64_t out_stride) {
    panel_all_rows<N, Activation::NONE, false>(n, y.rows + begin * y.stride, y.stride, sums, y.n_lm, nullptr, out,
                                               out_stride);
    for (int64_t l = 0; l < y.n_l; ++l)
        for (int64_t e = 0; e < n; ++e)
            for (int64_t i = 0; i < N * W; i += W) {
                float* to = out + e * out_stride + i;
                store(to, load(to) - own_share(l) * load(values + l * l_stride + e * N * W + i));
            }
}

// out_l,e = Σ_m Y_lm,e sums_lm less each edge's own share.
template <int N>
void expand(const Harmonics& y, int64_t begin, int64_t n, const float* sums, const float* values, float* out,
            int64_t l_stride, int64_t row_stride) {
    for (int64_t l = 0; l < y.n_l; ++l) {
        float* to = out + l * l_stride;
        panel_all_rows<N, Activation::NONE, false>(n, y.rows + begin * y.stride + l * l, y.stride, sums + l * l * N * W,
                                                   2 * l + 1, nullptr, to, row_stride);
        for (int64_t e = 0; e < n; ++e)
            for (int64_t i = 0; i < N * W; i += W)
                store(to + e * row_stride + i,
                      load(to + e * row_stride + i) - own_share(l) * load(values + e * N * W + i));
    }
}

// Added to the slopes by Y: g_e · sums_lm + v_l,e · by_sums_lm, where g and v are what the two sums are of.
template <int N>
void slopes(const Harmonics& y, const Degrees& degree, int64_t begin, int64_t n, const float* g, const float* sums_v,
            const float* v, int64_t l_stride, const float* sums_g, float* by_rows) {
    for (int64_t e = 0; e < n; ++e)
        for (int64_t k = 0; k < y.stride; k += 4) {
            vf part[4];
#pragma GCC unroll 4
            for (int i = 0; i < 4; ++i) {
                const float* own = v + degree.of[k + i] * l_stride + e * N * W;
                part[i] = vf{};
#pragma GCC unroll 2
                for (int b = 0; b < N * W; b += W)
                    part[i] += load(g + e * N * W + b) * load(sums_v + (k + i) * N * W + b) +
                               load(own + b) * load(sums_g + (k + i) * N * W + b);
            }
            float total[4];
            sum_four(part[0], part[1], part[2], part[3], total);
            for (int i = 0; i < 4; ++i) by_rows[(begin + e) * y.stride + k + i] += total[i];
        }
}

template <int N>
INLINE void copy_block(int64_t n, const float* from, int64_t width, float* to) {
    for (int64_t e = 0; e < n; ++e)
        for (int64_t i = 0; i < N * W; i += W) store(to + e * N * W + i, load(from + e * width + i));
}

// ---- filtered sums, DimeNet and DimeNet++ --------------------------------------------------------------

// weights: for every block and l, (n_radial, N W); back: the same transposed and packed, to radial_width.
struct Filters {
    int64_t width, n_radial, radial_width;
    const float *weights, *back;
};

// c_l,e = Σ_n R_ln,e M_ln and z = c x.
template <int N>
void filtered(const Filters& f, const Harmonics& y, int64_t begin, int64_t n, int64_t feature, const float* radial,
              const float* x, float* c, float* z) {
    for (int64_t l = 0; l < y.n_l; ++l) {
        float *cl = c + l * n * N * W, *zl = z + l * n * N * W;
        panel_all_rows<N, Activation::NONE, false>(
            n, radial + (begin * y.n_l + l) * f.radial_width, y.n_l * f.radial_width,
            f.weights + (feature * y.n_l + l * N * W) * f.n_radial, f.n_radial, nullptr, cl, N * W);
        for (int64_t i = 0; i < n * N * W; i += W) store(zl + i, load(cl + i) * load(x + i));
    }
}

template <int N>
void filtered_sum(const Filters& f, const Harmonics& y, int64_t begin, int64_t n, int64_t feature, const float* x,
                  const float* radial, float* out, float* memory) {
    float *own = memory, *z = own + n * N * W, *sums = z + y.n_l * n * N * W;
    copy_block<N>(n, x + begin * f.width + feature, f.width, own);
    filtered<N>(f, y, begin, n, feature, radial, own, z, z);
    moments<N>(y, begin, n, z, n * N * W, sums);
    collapse<N>(y, begin, n, sums, z, n * N * W, out + begin * f.width + feature, f.width);
}

template <int N>
void filtered_sum_back(const Filters& f, const Harmonics& y, const Degrees& degree, int64_t begin, int64_t n,
                       int64_t feature, const float* x, const float* radial, const float* by_out, float* by_x,
                       float* by_radial, float* by_rows, float* memory) {
    const int64_t size = n * N * W;
    float *own = memory, *g = own + size, *c = g + size, *z = c + y.n_l * size, *by_z = z + y.n_l * size,
          *sums_z = by_z + y.n_l * size, *sums_g = sums_z + y.stride * N * W;
    copy_block<N>(n, x + begin * f.width + feature, f.width, own);
    copy_block<N>(n, by_out + begin * f.width + feature, f.width, g);
    filtered<N>(f, y, begin, n, feature, radial, own, c, z);
    moments<N>(y, begin, n, z, size, sums_z);
    moments<N>(y, begin, n, g, 0, sums_g);
    slopes<N>(y, degree, begin, n, g, sums_z, z, size, sums_g, by_rows);
    expand<N>(y, begin, n, sums_g, g, by_z, size, N * W);
    for (int64_t l = 0; l < y.n_l; ++l) {
        float* by = by_z + l * size;
        for (int64_t e = 0; e < n; ++e)
            for (int64_t i = 0; i < N * W; i += W) {
                const vf b = load(by + e * N * W + i);
                float* to = by_x + (begin + e) * f.width + feature + i;
                store(to, load(to) + b * load(c + l * size + e * N * W + i));
                store(by + e * N * W + i, b * load(own + e * N * W + i));
            }
        product<Activation::NONE, true>(n, by, N * W, f.back + (feature * y.n_l + l * N * W) * f.radial_width, N * W,
                                        f.radial_width, nullptr, by_radial + (begin * y.n_l + l) * f.radial_width,
                                        y.n_l * f.radial_width);
    }
}

// ---- bilinear sums, GemNet -----------------------------------------------------------------------------

// weights (basis width × width → n_out) packed, and transposed and packed.
struct Bilinear {
    int64_t width, basis_width, n_out;
    const float *weights, *back;
};

// S_e,l (n, n_l, N W) of every block of an atom's edges, one block behind the other.
template <int N>
void angular_sums(const Harmonics& y, int64_t begin, int64_t n, const float* own, float* sums, float* s) {
    moments<N>(y, begin, n, own, 0, sums);
    expand<N>(y, begin, n, sums, own, s, N * W, y.n_l * N * W);
}

INLINE void transposed(const float* from, int64_t n_rows, int64_t n_columns, float* to) {
    for (int64_t r = 0; r < n_rows; ++r)
        for (int64_t c = 0; c < n_columns; ++c) to[c * n_rows + r] = from[r * n_columns + c];
}

// mixed (n, basis_width, width): Σ_l B_lk,e S_l,e.
template <int N>
void mix(const Bilinear& b, const Harmonics& y, int64_t begin, int64_t n, int64_t feature, const float* x,
         const float* basis, float* mixed, float* memory) {
    float *own = memory, *s = own + n * N * W, *sums = s + n * y.n_l * N * W;
    copy_block<N>(n, x + begin * b.width + feature, b.width, own);
    angular_sums<N>(y, begin, n, own, sums, s);
    for (int64_t e = 0; e < n; ++e)  // basis (n, basis_width, n_l)
        panel_all_rows<N, Activation::NONE, false>(b.basis_width, basis + e * b.basis_width * y.n_l, y.n_l,
                                                   s + e * y.n_l * N * W, y.n_l, nullptr,
                                                   mixed + e * b.basis_width * b.width + feature, b.width);
}

template <int N>
void mix_back(const Bilinear& b, const Harmonics& y, const Degrees& degree, int64_t begin, int64_t n, int64_t feature,
              const float* x, const float* basis, const float* by_mixed, float* by_x, float* by_basis, float* by_rows,
              float* memory) {
    const int64_t size = n * N * W, K = b.basis_width;
    float *own = memory, *s = own + size, *by_s = s + y.n_l * size, *sums_x = by_s + y.n_l * size,
          *sums_s = sums_x + y.stride * N * W, *by_k = sums_s + y.stride * N * W;
    copy_block<N>(n, x + begin * b.width + feature, b.width, own);
    angular_sums<N>(y, begin, n, own, sums_x, s);
    for (int64_t e = 0; e < n; ++e) {
        const float* by = by_mixed + e * K * b.width + feature;
        copy_block<N>(K, by, b.width, by_k);
        panel_all_rows<N, Activation::NONE, false>(y.n_l, basis + e * K * y.n_l, K, by_k, K, nullptr,
                                                   by_s + e * N * W, size);  // basis (n, n_l, K)
        for (int64_t l = 0; l < y.n_l; ++l)
            for (int64_t k = 0; k < K; k += 4) {
                vf part[4];
#pragma GCC unroll 4
                for (int i = 0; i < 4; ++i) {
                    part[i] = vf{};
#pragma GCC unroll 2
                    for (int f = 0; f < N * W; f += W)
                        part[i] += load(s + (e * y.n_l + l) * N * W + f) * load(by_k + (k + i) * N * W + f);
                }
                float total[4];
                sum_four(part[0], part[1], part[2], part[3], total);
                for (int i = 0; i < 4; ++i) by_basis[(e * y.n_l + l) * K + k + i] += total[i];
            }
    }
    moments<N>(y, begin, n, by_s, size, sums_s);
    slopes<N>(y, degree, begin, n, own, sums_s, by_s, size, sums_x, by_rows);
    collapse<N>(y, begin, n, sums_s, by_s, size, by_x + begin * b.width + feature, b.width);
}

// The atoms from ``atom`` on whose edges make up a tile, at least one.
int64_t tile_end(const int64_t* first, int64_t atom, int64_t n_atoms) {
    int64_t end = atom + 1;
    while (end < n_atoms && first[end + 1] - first[atom] <= TILE) ++end;
    return end;
}

}  // namespace

extern "C" {

// Registers of features in a block; the last ones of a width that this does not divide make a block each.
int64_t kg_angular_block() { return BLOCK; }

int64_t kg_angular_floats(int64_t n_l, int64_t stride, int64_t most_edges, int64_t basis_width) {
    return BLOCK * W * (most_edges * (2 + 3 * n_l) + 2 * stride + basis_width);
}

// out (n_edges, width) = Σ_{e' ≠ e} Σ_l c_l,e' x_e' (2l+1)/4π P_l(u_e·u_e'), c_l = Σ_n R_ln M_ln: radial
// (n_edges, n_l, radial_width).
void kg_filtered_sum(const Filters* f, const Harmonics* y, int64_t n_atoms, const int64_t* first, const float* x,
                     const float* radial, float* out, float* memory) {
    for (int64_t a = 0; a < n_atoms; ++a) {
        const int64_t begin = first[a], n = first[a + 1] - begin;
        int64_t feature = 0;
        for (; n && feature + BLOCK * W <= f->width; feature += BLOCK * W)
            filtered_sum<BLOCK>(*f, *y, begin, n, feature, x, radial, out, memory);
        for (; n && feature < f->width; feature += W)
            filtered_sum<1>(*f, *y, begin, n, feature, x, radial, out, memory);
    }
}

// Derivatives, added to what by_x, by_radial and by_rows (that by Y) hold.
void kg_filtered_sum_back(const Filters* f, const Harmonics* y, int64_t n_atoms, const int64_t* first, const float* x,
                          const float* radial, const float* by_out, float* by_x, float* by_radial, float* by_rows,
                          float* memory) {
    const Degrees degree(y->n_l);
    for (int64_t a = 0; a < n_atoms; ++a) {
        const int64_t begin = first[a], n = first[a + 1] - begin;
        int64_t feature = 0;
        for (; n && feature + BLOCK * W <= f->width; feature += BLOCK * W)
            filtered_sum_back<BLOCK>(*f, *y, degree, begin, n, feature, x, radial, by_out, by_x, by_radial, by_rows,
                                     memory);
        for (; n && feature < f->width; feature += W)
            filtered_sum_back<1>(*f, *y, degree, begin, n, feature, x, radial, by_out, by_x, by_radial, by_rows,
                                 memory);
    }
}

int64_t kg_bilinear_floats(int64_t most_edges, int64_t basis_width, int64_t n_l, int64_t width) {
    const int64_t rows = most_edges > TILE ? most_edges : TILE;
    return rows * basis_width * (width + n_l);
}

// out (n_edges, n_out) = Σ_kq W_(kq) Σ_l B_lk,e Σ_{e' ≠ e} x_q,e' (2l+1)/4π P_l(u_e·u_e'): basis (n_edges, n_l, basis_width).
void kg_bilinear_sum(const Bilinear* b, const Harmonics* y, int64_t n_atoms, const int64_t* first, const float* x,
                     const float* basis, float* out, float* memory, float* tile) {
    const int64_t K = b->basis_width, size = K * b->width;
    for (int64_t a = 0; a < n_atoms;) {
        const int64_t end = tile_end(first, a, n_atoms), start = first[a], rows = first[end] - start;
        float* turned = tile + rows * size;
        for (int64_t e = 0; e < rows; ++e)
            transposed(basis + (start + e) * K * y->n_l, y->n_l, K, turned + e * K * y->n_l);
        for (; a < end; ++a) {
            const int64_t begin = first[a], n = first[a + 1] - begin;
            const float* own_basis = turned + (begin - start) * K * y->n_l;
            float* mixed = tile + (begin - start) * size;
            int64_t feature = 0;
            for (; n && feature + BLOCK * W <= b->width; feature += BLOCK * W)
                mix<BLOCK>(*b, *y, begin, n, feature, x, own_basis, mixed, memory);
            for (; n && feature < b->width; feature += W)
                mix<1>(*b, *y, begin, n, feature, x, own_basis, mixed, memory);
        }
        product(rows, tile, size, b->weights, size, b->n_out, nullptr, out + start * b->n_out, b->n_out);
    }
}

// Derivatives: by_x is written; by_basis and by_rows (that by Y) are added to.
void kg_bilinear_sum_back(const Bilinear* b, const Harmonics* y, int64_t n_atoms, const int64_t* first, const float* x,
                          const float* basis, const float* by_out, float* by_x, float* by_basis, float* by_rows,
                          float* memory, float* tile) {
    const Degrees degree(y->n_l);
    const int64_t K = b->basis_width, size = K * b->width;
    for (int64_t a = 0; a < n_atoms;) {
        const int64_t end = tile_end(first, a, n_atoms), start = first[a], rows = first[end] - start;
        product(rows, by_out + start * b->n_out, b->n_out, b->back, b->n_out, size, nullptr, tile, size);
        for (; a < end; ++a) {
            const int64_t begin = first[a], n = first[a + 1] - begin, at = begin * K * y->n_l;
            const float* by_mixed = tile + (begin - start) * size;
            int64_t feature = 0;
            for (; n && feature + BLOCK * W <= b->width; feature += BLOCK * W)
                mix_back<BLOCK>(*b, *y, degree, begin, n, feature, x, basis + at, by_mixed, by_x, by_basis + at, by_rows,
                                memory);
            for (; n && feature < b->width; feature += W)
                mix_back<1>(*b, *y, degree, begin, n, feature, x, basis + at, by_mixed, by_x, by_basis + at, by_rows,
                            memory);
        }
    }
}
}
