// Functions of a distance from one table of splines, with their slopes, in double precision.
#include "spline.h"

extern "C" {

// values, slopes (n, width) at distances (n,), from a table of n_rows (n_rows, width) that begins at ``*start``.
void kg_tabulated(int64_t n, int64_t width, const float* distances, const double* start, const double* rows_per_length,
                  int64_t n_rows, const double* table, float* values, float* slopes) {
    for (int64_t i = 0; i < n; ++i) {
        const double at = (double(distances[i]) - *start) * *rows_per_length;
        const int64_t row = smaller(int64_t(at), n_rows - N_WEIGHTS);
        const double x = at - double(row), y = 1.0 - x;
        const double w[] = {y * y * y / 6.0, 2.0 / 3.0 - x * x + 0.5 * x * x * x, 2.0 / 3.0 - y * y + 0.5 * y * y * y,
                            x * x * x / 6.0};
        const double v[] = {-0.5 * y * y * *rows_per_length, x * (1.5 * x - 2.0) * *rows_per_length,
                            y * (2.0 - 1.5 * y) * *rows_per_length, 0.5 * x * x * *rows_per_length};
        const double* t = table + row * width;
        for (int64_t c = 0; c < width; ++c) {
            const double t0 = t[c], t1 = t[c + width], t2 = t[c + 2 * width], t3 = t[c + 3 * width];
            values[i * width + c] = float(w[0] * t0 + w[1] * t1 + w[2] * t2 + w[3] * t3);
            slopes[i * width + c] = float(v[0] * t0 + v[1] * t1 + v[2] * t2 + v[3] * t3);
        }
    }
}

// by_distances (n,) from the derivatives by values and the slopes (n, width).
void kg_tabulated_back(int64_t n, int64_t width, const float* by_values, const float* slopes, float* by_distances) {
    for (int64_t i = 0; i < n; ++i) {
        vf total = vf{};
        int64_t c = 0;
        for (; c + W <= width; c += W) total += load(by_values + i * width + c) * load(slopes + i * width + c);
        by_distances[i] = sum(total);
        for (; c < width; ++c) by_distances[i] += by_values[i * width + c] * slopes[i * width + c];
    }
}
}
