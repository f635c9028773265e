// Pairs of atoms, of a graph or of a neighbour list, prepared for functions of their distance that are tables.
#pragma once
#include "spline.h"

namespace {

// Where tables of functions of distance begin, and their rows; those of a further type of edges follow.
struct Tables {
    double start, rows_per_length;
    int64_t n_rows;
};

struct Graph {
    int64_t n_atoms, n_edges;
    const int64_t *element;                   // (n_atoms,) row of the embedding
    const int64_t *center, *neighbor, *type;  // (n_edges,) sorted by centre; type may be null
    const float *vectors;                     // (n_edges, 3)
};

// Two atoms and the edges between them: filters depend on the distance alone, so both share them. The vector is
// that of the edge from the atom that comes first.
struct Pair {
    float weights[N_WEIGHTS], slopes[N_WEIGHTS], unit[3], per_length;
    int32_t neighbor, row, edge;
};

// Edges that stand for their pairs, until there are enough of them to look at together.
struct Pending {
    static constexpr int64_t N = SplinePlaces::N;
    float vectors[3 * N];
    int64_t neighbor[N], type[N], edge[N], n = 0;

    void add(const float* r, int64_t to, int64_t kind, int64_t number) {
        for (int c = 0; c < 3; ++c) vectors[3 * n + c] = r[c];
        neighbor[n] = to, type[n] = kind, edge[n++] = number;
    }

    // Make pairs of them; false where atoms are nearer than tables begin.
    bool flush(const Tables& tables, Pair* pairs) {
        SplinePlaces places;
        if (n && !places.find(vectors, n, tables.start, tables.rows_per_length, tables.n_rows)) return false;
        for (int64_t i = 0; i < n; ++i) {
            Pair& pair = pairs[i];
            for (int k = 0; k < N_WEIGHTS; ++k) {
                pair.weights[k] = places.weights[k][i];
                pair.slopes[k] = places.slopes[k][i];
            }
            for (int c = 0; c < 3; ++c) pair.unit[c] = places.unit[c][i];
            pair.per_length = places.per_length[i];
            pair.neighbor = int32_t(neighbor[i]);
            pair.row = places.row[i] + int32_t(type[i] * tables.n_rows);
            pair.edge = int32_t(edge[i]);
        }
        n = 0;
        return true;
    }
};

// Whether an edge stands for its pair; of an atom and its own image, the one that points up.
template <typename Real>
INLINE bool leads(int64_t center, int64_t neighbor, const Real* r) {
    if (center != neighbor) return center < neighbor;
    return r[0] != 0 ? r[0] > 0 : r[1] != 0 ? r[1] > 0 : r[2] > 0;
}

// Where the atoms of a list are. ``order`` has the atom at each place, ``place`` the place of each atom, ``begin``
// (n_atoms + 1,) where each atom's edges begin in the list; they are null where atoms keep their order.
struct List {
    const double *shift, *positions, *cells;
    const int64_t *system_index, *order, *place, *begin;
    double cutoff;
};

// The first edge whose centre is not before an atom.
int64_t first_edge(const Graph& graph, int64_t atom) {
    int64_t low = 0, high = graph.n_edges;
    while (low < high) {
        const int64_t middle = (low + high) / 2;
        if (graph.center[middle] < atom) low = middle + 1;
        else high = middle;
    }
    return low;
}

// The pairs of the atoms at some places, from where to where each atom's are, and how many edges led. With BOTH those
// that lead, one after the other; without, all, each where its atom's edges begin. Of a graph, or of a list with edges
// beyond the cutoff, for which ``graph`` has no vectors. False where atoms are nearer than tables begin, and where
// more than half of all edges lead: then some have none that goes back.
template <bool BOTH>
bool prepare_pairs(const Tables& tables, const Graph& graph, const List* list, int64_t from, int64_t to, Pair* pairs,
                   int64_t* first, int64_t* last, int64_t* n_leading) {
    const int64_t* order = list ? list->order : nullptr;
    const double limit = list ? list->cutoff * list->cutoff : 0.0;
    int64_t n_pairs = 0, n_led = 0, end = order ? 0 : first_edge(graph, from);
    Pending pending;
    for (int64_t place = from; place < to; ++place) {
        const int64_t begin = order ? list->begin[order[place]] : end;
        if (order) end = list->begin[order[place] + 1];
        else while (end < graph.n_edges && graph.center[end] == place) ++end;
        if (!BOTH) n_pairs = begin;
        first[place] = n_pairs;
        for (int64_t e = begin; e < end; ++e) {
            const int64_t i = graph.center[e], j = graph.neighbor[e], there = order ? list->place[j] : j;
            const bool led = list ? leads(place, there, list->shift + 3 * e) : leads(place, there, graph.vectors + 3 * e);
            n_led += led;
            if (BOTH && !led) continue;
            if (BOTH && 2 * n_led > graph.n_edges) return false;
            float vector[3];
            if (list) {
                const double *s = list->shift + 3 * e, *ri = list->positions + 3 * i, *rj = list->positions + 3 * j;
                const double* h = list->cells + (list->system_index ? 9 * list->system_index[i] : 0);
                double square = 0.0;
                for (int c = 0; c < 3; ++c) {
                    const double r = (rj[c] - ri[c]) + (s[0] * h[c] + s[1] * h[3 + c] + s[2] * h[6 + c]);
                    square += r * r;
                    vector[c] = float(r);
                }
                if (!(square < limit)) continue;
            } else {
                for (int c = 0; c < 3; ++c) vector[c] = graph.vectors[3 * e + c];
            }
            pending.add(vector, there, graph.type ? graph.type[e] : 0, e);
            ++n_pairs;
            if (pending.n == Pending::N && !pending.flush(tables, pairs + n_pairs - Pending::N)) return false;
        }
        last[place] = n_pairs;
        if (!BOTH && !pending.flush(tables, pairs + n_pairs - pending.n)) return false;
    }
    *n_leading = n_led;
    return pending.flush(tables, pairs + n_pairs - pending.n);
}

}  // namespace
