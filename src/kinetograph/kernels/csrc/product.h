// Products of a few rows with a weight matrix whose tiles stay in cache: out = act(rows · Wᵀ + b).
//
// The weights are packed beforehand into panels of up to three registers' width, each panel running along
// the inputs. Sums run over the inputs in order, so a row's result does not depend on the rows beside it.
//
// A row's numbers, and the weights, come singly, in single precision, or as pairs of bfloat16 in the place of a
// float: then two inputs are one lane, and all counts of inputs are counts of lanes. Sums are in single precision.
#pragma once
#include "vector.h"

struct Single {
    static constexpr int64_t INPUTS = 1;
    INLINE vf add_product(vf sum, const float* a, vf b) { return sum + *a * b; }
};

#if defined(__AVX512BF16__)
struct Pairs {
    static constexpr int64_t INPUTS = 2;
    INLINE vf add_product(vf sum, const float* a, vf b) {
        int32_t pair;
        memcpy(&pair, a, sizeof pair);
        return (vf)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(pair), (__m512bh)b);
    }
};
#endif

struct Activation {
    enum Kind { NONE, SILU };
};

// Rows that a panel of so many registers is multiplied with at once: what the registers hold.
constexpr int rows_at_once(int n_vectors) {
    return N_REGISTERS == 32 ? (n_vectors == 3 ? 8 : 12) : (n_vectors == 3 ? 4 : n_vectors == 2 ? 6 : 8);
}

// The width, in registers, of the next panel when so many are left.
constexpr int panel_vectors(int left) { return left == 4 ? 2 : left > 3 ? 3 : left; }

template <int ROWS, int N, Activation::Kind ACT, bool ADD, typename Lane = Single>
INLINE void panel_rows(const float* rows, int64_t stride, const float* panel, int64_t n_in, const float* bias,
                       float* out, int64_t out_stride) {
    vf acc[ROWS][N];
#pragma GCC unroll 16
    for (int m = 0; m < ROWS; ++m)
#pragma GCC unroll 4
        for (int v = 0; v < N; ++v) acc[m][v] = bias ? load(bias + v * W) : vf{};
    for (int64_t k = 0; k < n_in; ++k) {
        vf b[N];
#pragma GCC unroll 4
        for (int v = 0; v < N; ++v) b[v] = load(panel + (k * N + v) * W);
#pragma GCC unroll 16
        for (int m = 0; m < ROWS; ++m) {
            const float* a = rows + m * stride + k;
#pragma GCC unroll 4
            for (int v = 0; v < N; ++v) acc[m][v] = Lane::add_product(acc[m][v], a, b[v]);
        }
    }
#pragma GCC unroll 16
    for (int m = 0; m < ROWS; ++m)
#pragma GCC unroll 4
        for (int v = 0; v < N; ++v) {
            vf y = acc[m][v];
            if (ACT == Activation::SILU) y = silu(y);
            float* to = out + m * out_stride + v * W;
            store(to, ADD ? load(to) + y : y);
        }
}

template <int N, Activation::Kind ACT, bool ADD, typename Lane = Single>
INLINE void panel_all_rows(int64_t n_rows, const float* rows, int64_t stride, const float* panel, int64_t n_in,
                           const float* bias, float* out, int64_t out_stride) {
    constexpr int M = rows_at_once(N);
    int64_t r = 0;
    for (; r + M <= n_rows; r += M)
        panel_rows<M, N, ACT, ADD, Lane>(rows + r * stride, stride, panel, n_in, bias, out + r * out_stride,
                                         out_stride);
    for (; r + 4 <= n_rows; r += 4)
        panel_rows<4, N, ACT, ADD, Lane>(rows + r * stride, stride, panel, n_in, bias, out + r * out_stride,
                                         out_stride);
    for (; r < n_rows; ++r)
        panel_rows<1, N, ACT, ADD, Lane>(rows + r * stride, stride, panel, n_in, bias, out + r * out_stride,
                                         out_stride);
}

// Floating-point operations of all products so far; threads that meet may lose some.
extern int64_t flop_count;

// out (n_rows, n_out) = act(rows (n_rows, n_in) · Wᵀ + bias), or added to what is there. n_out is a multiple
// of W; the bias may be null.
template <Activation::Kind ACT = Activation::NONE, bool ADD = false, typename Lane = Single>
static void product(int64_t n_rows, const float* rows, int64_t stride, const float* packed, int64_t n_in,
                    int64_t n_out, const float* bias, float* out, int64_t out_stride) {
    flop_count += 2 * n_rows * n_in * Lane::INPUTS * n_out;
    for (int64_t begin = 0; begin < n_out;) {
        const int n = panel_vectors(int((n_out - begin) / W));
        const float* panel = packed + begin * n_in;
        const float* b = bias ? bias + begin : nullptr;
        if (n == 3)
            panel_all_rows<3, ACT, ADD, Lane>(n_rows, rows, stride, panel, n_in, b, out + begin, out_stride);
        else if (n == 2)
            panel_all_rows<2, ACT, ADD, Lane>(n_rows, rows, stride, panel, n_in, b, out + begin, out_stride);
        else
            panel_all_rows<1, ACT, ADD, Lane>(n_rows, rows, stride, panel, n_in, b, out + begin, out_stride);
        begin += n * W;
    }
}
