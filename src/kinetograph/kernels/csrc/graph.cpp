// Edges of a list that lie within a cutoff, and the forces that slopes by edge vectors make.
#include "vector.h"

namespace {

// An order of atoms: ``order`` has the atom at each place, ``place`` the place of each atom, ``first`` (n_atoms + 1,)
// where the edges of each atom begin in the list.
struct Order {
    int64_t n_atoms;
    const int64_t *order, *place, *first;
};

template <typename Real>
int64_t edges_within(int64_t n_edges, const int64_t* center, const int64_t* neighbor, const double* shift,
                     const double* positions, const double* cells, const int64_t* system_index, double cutoff,
                     const Order* order, int64_t* chosen, int64_t* new_center, int64_t* new_neighbor, Real* vectors,
                     Real* distances, double* nearest, int64_t* nearest_edge) {
    const double limit = cutoff * cutoff;
    int64_t n = 0;
    double least = 1e300;
    // Without an order all edges are one stretch; with one, those of each atom are.
    const int64_t n_stretches = order ? order->n_atoms : 1;
    for (int64_t stretch = 0; stretch < n_stretches; ++stretch) {
        const int64_t begin = order ? order->first[order->order[stretch]] : 0;
        const int64_t end = order ? order->first[order->order[stretch] + 1] : n_edges;
        for (int64_t e = begin; e < end; ++e) {
            const int64_t i = center[e], j = neighbor[e];
            const double *s = shift + 3 * e, *ri = positions + 3 * i, *rj = positions + 3 * j;
            const double* h = cells + (system_index ? 9 * system_index[i] : 0);
            double r[3];
            for (int c = 0; c < 3; ++c) r[c] = (rj[c] - ri[c]) + (s[0] * h[c] + s[1] * h[3 + c] + s[2] * h[6 + c]);
            const double square = r[0] * r[0] + r[1] * r[1] + r[2] * r[2];
            if (square < least) {
                least = square;
                *nearest_edge = e;
            }
            chosen[n] = e;
            new_center[n] = order ? stretch : i;
            new_neighbor[n] = order ? order->place[j] : j;
            Real length = 0;
            for (int c = 0; c < 3; ++c) {
                vectors[3 * n + c] = Real(r[c]);
                length += vectors[3 * n + c] * vectors[3 * n + c];
            }
            distances[n] = Real(__builtin_sqrt(length));
            n += square < limit;  // the next edge takes the place of one that is too long
        }
    }
    *nearest = least;
    return n;
}

template <typename Real>
void forces_from_slopes(int64_t n_edges, const int64_t* center, const int64_t* neighbor, const Real* slopes,
                        const Real* vectors, const int64_t* system_index, double* forces, double* virial) {
    for (int64_t e = 0; e < n_edges; ++e) {
        double *at = forces + 3 * center[e], *from = forces + 3 * neighbor[e];
        for (int c = 0; c < 3; ++c) {
            at[c] += double(slopes[3 * e + c]);
            from[c] -= double(slopes[3 * e + c]);
        }
        if (virial) {
            double* v = virial + (system_index ? 9 * system_index[center[e]] : 0);
            for (int a = 0; a < 3; ++a)
                for (int b = 0; b < 3; ++b) v[3 * a + b] += double(vectors[3 * e + a]) * double(slopes[3 * e + b]);
        }
    }
}

// Edges to the k nearest neighbours of each centre and to those as far as the last of them, within a tolerance: how
// many, and which. ``kept`` is for k distances.
int64_t nearest_edges(int64_t n_edges, const int64_t* center, const double* distances, int64_t k, double tolerance,
                      int64_t* chosen, double* kept) {
    int64_t n = 0;
    for (int64_t begin = 0, end; begin < n_edges; begin = end) {
        int64_t n_kept = 0;  // the smallest so far, ascending
        for (end = begin; end < n_edges && center[end] == center[begin]; ++end) {
            const double d = distances[end];
            if (n_kept == k && d >= kept[k - 1]) continue;
            int64_t place = n_kept < k ? n_kept++ : k - 1;
            for (; place > 0 && kept[place - 1] > d; --place) kept[place] = kept[place - 1];
            kept[place] = d;
        }
        const double limit = kept[n_kept - 1] + tolerance;
        for (int64_t e = begin; e < end; ++e) {
            chosen[n] = e;
            n += distances[e] <= limit;  // the next edge takes the place of one that is too long
        }
    }
    return n;
}

}  // namespace

extern "C" {

// ``chosen`` has room for one more than n_edges, which are sorted by centre.
int64_t kg_nearest_edges(int64_t n_edges, const int64_t* center, const double* distances, int64_t k,
                         const double* tolerance, int64_t* chosen, double* kept) {
    return nearest_edges(n_edges, center, distances, k, *tolerance, chosen, kept);
}

// The edges closer than the cutoff: how many; which, with their ends, vectors and distances; and of all edges
// the square of the shortest with its number. Outputs have room for one more than n_edges. ``system_index`` is
// null for a single structure, ``order`` where atoms keep theirs.
int64_t kg_edges_within_float(int64_t n, const int64_t* center, const int64_t* neighbor, const double* shift,
                              const double* positions, const double* cells, const int64_t* system_index,
                              const double* cutoff, const Order* order, int64_t* chosen, int64_t* new_center,
                              int64_t* new_neighbor, float* vectors, float* distances, double* nearest,
                              int64_t* nearest_edge) {
    return edges_within(n, center, neighbor, shift, positions, cells, system_index, *cutoff, order, chosen, new_center,
                        new_neighbor, vectors, distances, nearest, nearest_edge);
}

int64_t kg_edges_within_double(int64_t n, const int64_t* center, const int64_t* neighbor, const double* shift,
                               const double* positions, const double* cells, const int64_t* system_index,
                               const double* cutoff, const Order* order, int64_t* chosen, int64_t* new_center,
                               int64_t* new_neighbor, double* vectors, double* distances, double* nearest,
                               int64_t* nearest_edge) {
    return edges_within(n, center, neighbor, shift, positions, cells, system_index, *cutoff, order, chosen, new_center,
                        new_neighbor, vectors, distances, nearest, nearest_edge);
}

// Add what slopes by edge vectors make of forces (n_atoms, 3) and, unless null, of virials (n_systems, 3, 3).
void kg_forces_from_slopes(int64_t n, const int64_t* center, const int64_t* neighbor, const float* slopes,
                           const float* vectors, const int64_t* system_index, double* forces, double* virial) {
    forces_from_slopes(n, center, neighbor, slopes, vectors, system_index, forces, virial);
}

// For each edge the one that goes back, which must be there. Edges are sorted by centre, neighbour and shift; ``first``
// (n_atoms + 1,) has where the edges of each centre begin, ``next`` is for n_atoms. The edges from j back to i stand in
// the opposite order: their shifts are the negatives.
void kg_reverse_edges(int64_t n_atoms, const int64_t* first, const int64_t* neighbor, int64_t* next, int64_t* reverse) {
    for (int64_t a = 0; a < n_atoms; ++a) next[a] = first[a];
    for (int64_t a = 0; a < n_atoms; ++a)
        for (int64_t e = first[a]; e < first[a + 1];) {
            const int64_t j = neighbor[e], begin = e;
            while (e < first[a + 1] && neighbor[e] == j) ++e;
            for (int64_t k = begin; k < e; ++k) reverse[k] = next[j] + (e - 1 - k);
            next[j] += e - begin;
        }
}
}
