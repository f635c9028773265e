// Functions of a distance as uniform cubic B-splines: row k of a table belongs to the knot k − 1, and four
// consecutive rows make the value anywhere between two knots.
#pragma once
#include "vector.h"

constexpr int N_WEIGHTS = 4;

// Weights of the four rows at 0 ≤ x < 1 between two knots, and their derivatives by x; so many floats apart.
template <int STRIDE = 1>
INLINE void spline_weights(float x, float* w) {
    const float y = 1.0f - x, x2 = x * x, y2 = y * y;
    w[0] = y2 * y * (1.0f / 6.0f);
    w[STRIDE] = 2.0f / 3.0f - x2 + 0.5f * x2 * x;
    w[2 * STRIDE] = 2.0f / 3.0f - y2 + 0.5f * y2 * y;
    w[3 * STRIDE] = x2 * x * (1.0f / 6.0f);
}

template <int STRIDE = 1>
INLINE void spline_slopes(float x, float* w) {
    const float y = 1.0f - x;
    w[0] = -0.5f * y * y;
    w[STRIDE] = x * (1.5f * x - 2.0f);
    w[2 * STRIDE] = y * (2.0f - 1.5f * y);
    w[3 * STRIDE] = 0.5f * x * x;
}

// Where some distances lie: each between the knots of ``row + 1`` and ``row + 2``, with what weights and slopes
// of the four rows. Loops over them are plain, for the compiler to make vectors of.
struct SplinePlaces {
    static constexpr int N = 16;
    float unit[3][N], per_length[N];
    float weights[N_WEIGHTS][N], slopes[N_WEIGHTS][N];
    int32_t row[N];

    // Of the lengths of the first n of the vectors. False where one is before the table begins.
    bool find(const float* vectors, int64_t n, double start, double rows_per_length, int64_t n_rows) {
        // In double precision: among a thousand knots single precision leaves five digits of the place between two.
        double r[3][N], inverse[N], at[N];
        for (int i = 0; i < N; ++i)
            for (int c = 0; c < 3; ++c) r[c][i] = vectors[3 * (i < n ? i : 0) + c];
        for (int i = 0; i < N; ++i) {
            const double distance = __builtin_sqrt(r[0][i] * r[0][i] + r[1][i] * r[1][i] + r[2][i] * r[2][i]);
            inverse[i] = 1.0 / distance;
            at[i] = (distance - start) * rows_per_length;
        }
        double least = at[0];
        for (int i = 1; i < N; ++i) least = at[i] < least ? at[i] : least;
        const int32_t last = int32_t(n_rows - N_WEIGHTS);
        for (int i = 0; i < N; ++i) {
            for (int c = 0; c < 3; ++c) unit[c][i] = float(r[c][i] * inverse[i]);
            per_length[i] = float(inverse[i]);
            const int32_t whole = int32_t(at[i]);
            row[i] = whole < 0 ? 0 : whole < last ? whole : last;  // also of what is no number
            const float between = float(at[i] - double(row[i]));
            spline_weights<N>(between, &weights[0][i]);
            spline_slopes<N>(between, &slopes[0][i]);
        }
        return least >= 0.0;
    }
};

template <int N>
INLINE vf weighted_rows(const float* table, int64_t stride, const float* w) {
    vf y = w[0] * load(table);
#pragma GCC unroll 8
    for (int k = 1; k < N; ++k) y += w[k] * load(table + k * stride);
    return y;
}
