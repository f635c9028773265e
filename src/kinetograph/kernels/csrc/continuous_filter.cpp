// SchNet's continuous-filter convolution, y_i = Σ_j x_j ∘ w(d_ij), with filters that are splines, and its
// derivatives. Tables are (F/W, n_rows, W); the width F is padded to whole registers.
#include "spline.h"

namespace {

constexpr int BLOCKS = N_REGISTERS == 32 ? 4 : 2;

struct Edge {
    float weights[N_WEIGHTS], slopes[N_WEIGHTS];
    int32_t neighbor, row;
};

template <int N>
INLINE void convolve(const Edge* begin, const Edge* end, const float* table, int64_t stride, const float* x, int64_t F,
                     float* y) {
    vf total[N] = {};
    for (const Edge* e = begin; e < end; ++e) {
        const float *t = table + int64_t(e->row) * W, *from = x + e->neighbor * F;
#pragma GCC unroll 4
        for (int b = 0; b < N; ++b)
            total[b] += load(from + b * W) * weighted_rows<N_WEIGHTS>(t + b * stride, W, e->weights);
    }
    for (int b = 0; b < N; ++b) store(y + b * W, total[b]);
}

// Of the edges that arrive at an atom, seen from the edges that leave it: they are as long.
template <int N>
INLINE void convolve_back(const Edge* begin, const Edge* end, const float* table, int64_t stride, const float* x,
                          const float* by_y, int64_t F, float* by_x, float* by_distance) {
    vf total[N] = {};
    for (const Edge* e = begin; e < end; ++e, ++by_distance) {
        const float *t = table + int64_t(e->row) * W, *g = by_y + e->neighbor * F;
        vf by_d = vf{};
#pragma GCC unroll 4
        for (int b = 0; b < N; ++b) {
            const vf by = load(g + b * W);
            total[b] += by * weighted_rows<N_WEIGHTS>(t + b * stride, W, e->weights);
            by_d += by * load(x + b * W) * weighted_rows<N_WEIGHTS>(t + b * stride, W, e->slopes);
        }
        *by_distance += sum(by_d);
    }
    for (int b = 0; b < N; ++b) store(by_x + b * W, total[b]);
}

}  // namespace

extern "C" {

int64_t kg_continuous_filter_edge_bytes() { return sizeof(Edge); }

// Prepare the edges of a graph for tables of n_rows rows that begin at ``*start``: where between which knots each
// lies, and with which each atom's begin, (n_atoms + 1,).
void kg_continuous_filter_edges(int64_t n_atoms, int64_t n_edges, const int64_t* center, const int64_t* neighbor,
                                const float* vectors, int64_t n_rows, const double* start,
                                const double* rows_per_length, void* memory, int64_t* first) {
    Edge* edges = (Edge*)memory;
    int64_t atom = 0;
    first[0] = 0;
    SplinePlaces places;
    for (int64_t begin = 0; begin < n_edges; begin += SplinePlaces::N) {
        const int64_t n = smaller(SplinePlaces::N, n_edges - begin);
        places.find(vectors + 3 * begin, n, *start, *rows_per_length, n_rows);
        for (int64_t i = 0; i < n; ++i) {
            const int64_t e = begin + i;
            while (atom < center[e]) first[++atom] = e;
            for (int k = 0; k < N_WEIGHTS; ++k) {
                edges[e].weights[k] = places.weights[k][i];
                edges[e].slopes[k] = places.slopes[k][i] * float(*rows_per_length);
            }
            edges[e].neighbor = int32_t(neighbor[e]);
            edges[e].row = places.row[i];
        }
    }
    while (atom < n_atoms) first[++atom] = n_edges;
}

// y (n_atoms, width).
void kg_continuous_filter(int64_t n_atoms, const void* memory, const int64_t* first, const float* table,
                          int64_t n_rows, int64_t width, const float* x, float* y) {
    const Edge* edges = (const Edge*)memory;
    const int64_t stride = n_rows * W;
    for (int64_t a = 0; a < n_atoms; ++a) {
        const Edge *begin = edges + first[a], *end = edges + first[a + 1];
        int64_t f = 0;
        for (; f + BLOCKS * W <= width; f += BLOCKS * W)
            convolve<BLOCKS>(begin, end, table + f / W * stride, stride, x + f, width, y + a * width + f);
        for (; f < width; f += W)
            convolve<1>(begin, end, table + f / W * stride, stride, x + f, width, y + a * width + f);
    }
}

// Derivatives by x (n_atoms, width) and by distances (n_edges,); that of an edge stands in the place of the one
// that goes back, which must be there.
void kg_continuous_filter_back(int64_t n_atoms, const void* memory, const int64_t* first, const float* table,
                               int64_t n_rows, int64_t width, const float* x, const float* by_y, float* by_x,
                               float* by_distances) {
    const Edge* edges = (const Edge*)memory;
    const int64_t stride = n_rows * W;
    if (first[n_atoms]) memset(by_distances, 0, size_t(first[n_atoms]) * sizeof(float));
    for (int64_t a = 0; a < n_atoms; ++a) {
        const Edge *begin = edges + first[a], *end = edges + first[a + 1];
        float* by = by_distances + first[a];
        int64_t f = 0;
        for (; f + BLOCKS * W <= width; f += BLOCKS * W)
            convolve_back<BLOCKS>(begin, end, table + f / W * stride, stride, x + a * width + f, by_y + f, width,
                                  by_x + a * width + f, by);
        for (; f < width; f += W)
            convolve_back<1>(begin, end, table + f / W * stride, stride, x + a * width + f, by_y + f, width,
                             by_x + a * width + f, by);
    }
}
}
