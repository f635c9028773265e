// Real spherical harmonics of unit vectors as polynomials of x, y and z, and their derivatives. Of each degree
// l: m = 0, 1 … l, −l … −1. With K a norm and Q_lm = P_lm / sin^mθ a polynomial of z alone, Y_lm and Y_l,−m are K Q_lm
// times the real and the imaginary part of (x + i y)^m.
#include "vector.h"

namespace {

constexpr int64_t MOST = 10;

struct Powers {
    double real[MOST], imaginary[MOST];
    Powers(double x, double y, int64_t n) {
        real[0] = 1.0;
        imaginary[0] = 0.0;
        for (int64_t m = 1; m < n; ++m) {
            real[m] = x * real[m - 1] - y * imaginary[m - 1];
            imaginary[m] = x * imaginary[m - 1] + y * real[m - 1];
        }
    }
};

INLINE double double_factorial(int64_t m) {  // (2m−1)!!
    double product = 1.0;
    for (int64_t k = 2; k <= m; ++k) product *= double(2 * k - 1);
    return product;
}

}  // namespace

extern "C" {

// Y of units (n, 3) with norms (n_l, n_l) of l and m: rows (n, stride), zero beyond n_l², and columns (n_l², n).
void kg_harmonics(int64_t n, int64_t n_l, int64_t stride, const float* units, const double* norms, float* rows,
                  float* columns) {
    for (int64_t e = 0; e < n; ++e) {
        const double z = units[3 * e + 2];
        const Powers power(units[3 * e], units[3 * e + 1], n_l);
        float* row = rows + e * stride;
        for (int64_t m = 0; m < n_l; ++m) {
            // (l−m) Q_lm = (2l−1) z Q_(l−1)m − (l+m−1) Q_(l−2)m
            double below = 0.0, here = double_factorial(m);
            for (int64_t l = m; l < n_l; ++l) {
                if (l > m) {
                    const double next = (double(2 * l - 1) * z * here - double(l + m - 1) * below) / double(l - m);
                    below = here;
                    here = next;
                }
                const double scaled = norms[l * n_l + m] * here;
                row[l * l + m] = float(scaled * power.real[m]);
                if (m) row[l * l + 2 * l + 1 - m] = float(scaled * power.imaginary[m]);
            }
        }
        for (int64_t k = 0; k < n_l * n_l; ++k) columns[k * n + e] = row[k];
        for (int64_t k = n_l * n_l; k < stride; ++k) row[k] = 0.0f;
    }
}

// by_units (n, 3) from slopes by Y (n, stride).
void kg_harmonics_back(int64_t n, int64_t n_l, int64_t stride, const float* units, const double* norms,
                       const float* by_rows, float* by_units) {
    for (int64_t e = 0; e < n; ++e) {
        const double z = units[3 * e + 2];
        const Powers power(units[3 * e], units[3 * e + 1], n_l);
        const float* by = by_rows + e * stride;
        double by_x = 0.0, by_y = 0.0, by_z = 0.0;
        for (int64_t m = 0; m < n_l; ++m) {
            double below = 0.0, here = double_factorial(m), slope_below = 0.0, slope = 0.0;
            double by_real = 0.0, by_imaginary = 0.0;
            for (int64_t l = m; l < n_l; ++l) {
                if (l > m) {
                    const double a = double(2 * l - 1), b = double(l + m - 1), per = 1.0 / double(l - m);
                    const double next_slope = (a * (here + z * slope) - b * slope_below) * per;
                    const double next = (a * z * here - b * below) * per;
                    below = here;
                    here = next;
                    slope_below = slope;
                    slope = next_slope;
                }
                const double norm = norms[l * n_l + m];
                const double real = by[l * l + m], imaginary = m ? double(by[l * l + 2 * l + 1 - m]) : 0.0;
                by_real += norm * here * real;
                by_imaginary += norm * here * imaginary;
                by_z += norm * slope * (real * power.real[m] + imaginary * power.imaginary[m]);
            }
            if (m) {
                by_x += double(m) * (by_real * power.real[m - 1] + by_imaginary * power.imaginary[m - 1]);
                by_y += double(m) * (by_imaginary * power.real[m - 1] - by_real * power.imaginary[m - 1]);
            }
        }
        by_units[3 * e] = float(by_x);
        by_units[3 * e + 1] = float(by_y);
        by_units[3 * e + 2] = float(by_z);
    }
}
}
