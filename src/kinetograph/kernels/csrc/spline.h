// Functions of a distance as uniform cubic B-splines: row k of a table belongs to the knot k − 1, and four
// consecutive rows make the value anywhere between two knots.
#pragma once
#include "vector.h"

constexpr int N_WEIGHTS = 4;

// Weights of the four rows at 0 ≤ x < 1 between two knots, and their derivatives by x.
INLINE void spline_weights(float x, float* w) {
    const float y = 1.0f - x, x2 = x * x, y2 = y * y;
    w[0] = y2 * y * (1.0f / 6.0f);
    w[1] = 2.0f / 3.0f - x2 + 0.5f * x2 * x;
    w[2] = 2.0f / 3.0f - y2 + 0.5f * y2 * y;
    w[3] = x2 * x * (1.0f / 6.0f);
}

INLINE void spline_slopes(float x, float* w) {
    const float y = 1.0f - x;
    w[0] = -0.5f * y * y;
    w[1] = x * (1.5f * x - 2.0f);
    w[2] = y * (2.0f - 1.5f * y);
    w[3] = 0.5f * x * x;
}

// Where a distance lies: between the knots of ``row + 1`` and ``row + 2``, and how far along.
struct SplinePlace {
    double distance;
    int64_t row;
    float between;
    SplinePlace(const float* vector, double start, double rows_per_length, int64_t n_rows) {
        // In double precision: among a thousand knots single precision leaves five digits of the place between two.
        const double x = vector[0], y = vector[1], z = vector[2];
        distance = __builtin_sqrt(x * x + y * y + z * z);
        const double at = (distance - start) * rows_per_length;
        row = smaller(int64_t(at), n_rows - N_WEIGHTS);
        between = float(at - double(row));
    }
};

template <int N>
INLINE vf weighted_rows(const float* table, int64_t stride, const float* w) {
    vf y = w[0] * load(table);
#pragma GCC unroll 8
    for (int k = 1; k < N; ++k) y += w[k] * load(table + k * stride);
    return y;
}
