// Lennard-Jones pairs, each looked at once.
#include "vector.h"

extern "C" {

// Adds to forces (n_atoms, 3), atomic energies (n_atoms,) and virials (n_systems, 3, 3), in double precision.
//
// parameters: 4ε, σ, cutoff, energy taken off every pair, start of the switch (beyond the cutoff: none).
// Leaves the square of the shortest pair and its number in ``nearest`` and ``nearest_pair``.
void kg_lennard_jones(int64_t n_pairs, const int64_t* first, const int64_t* second, const double* shift,
                      const double* positions, const double* cells, const int64_t* system_index,
                      const double* parameters, double* forces, double* energies, double* virial, double* nearest,
                      int64_t* nearest_pair) {
    const double four_epsilon = parameters[0], sigma2 = parameters[1] * parameters[1], cutoff = parameters[2];
    const double taken_off = parameters[3], switch_start = parameters[4], limit = cutoff * cutoff;
    const double per_width = switch_start < cutoff ? 1.0 / (cutoff - switch_start) : 0.0;
    double least = 1e300;
    for (int64_t begin = 0; begin < n_pairs;) {
        const int64_t i = first[begin], system = system_index ? system_index[i] : 0;
        const double *h = cells + 9 * system, ri[3] = {positions[3 * i], positions[3 * i + 1], positions[3 * i + 2]};
        double force[3] = {0, 0, 0}, energy = 0, *v = virial + 9 * system;
        int64_t p = begin;
        for (; p < n_pairs && first[p] == i; ++p) {
            const int64_t j = second[p];
            const double *s = shift + 3 * p, *rj = positions + 3 * j;
            double r[3];
            for (int c = 0; c < 3; ++c) r[c] = (rj[c] - ri[c]) + (s[0] * h[c] + s[1] * h[3 + c] + s[2] * h[6 + c]);
            const double square = r[0] * r[0] + r[1] * r[1] + r[2] * r[2];
            if (square < least) {
                least = square;
                *nearest_pair = p;
            }
            if (square >= limit) continue;
            const double x2 = sigma2 / square, x6 = x2 * x2 * x2;
            double u = four_epsilon * (x6 * x6 - x6) - taken_off;
            double pull = -four_epsilon * (12.0 * x6 * x6 - 6.0 * x6) / square;  // u'(r)/r
            if (per_width > 0.0 && square > switch_start * switch_start) {
                const double d = __builtin_sqrt(square), x = (d - switch_start) * per_width;
                const double value = 1.0 + x * x * x * (-10.0 + x * (15.0 - 6.0 * x));
                const double slope = -30.0 * x * x * (1.0 - x) * (1.0 - x) * per_width;
                pull = pull * value + u * slope / d;
                u *= value;
            }
            energy += 0.5 * u;
            energies[j] += 0.5 * u;
            for (int c = 0; c < 3; ++c) {
                const double f = pull * r[c];
                force[c] += f;
                forces[3 * j + c] -= f;
                for (int b = 0; b < 3; ++b) v[3 * b + c] += r[b] * f;
            }
        }
        energies[i] += energy;
        for (int c = 0; c < 3; ++c) forces[3 * i + c] += force[c];
        begin = p;
    }
    *nearest = least;
}
}
