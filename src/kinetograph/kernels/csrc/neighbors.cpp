// Pairs of atoms within a distance, every periodic image of its own, found in bins.
//
// Atoms are sorted into bins, and every bin looks at itself and at half of the bins around it, so each pair is
// found once. The pairs are then dealt out to both of their atoms by counting: by the higher atom, by the lower
// one, and back. So the neighbours of each come out in ascending order without a sort.
#include <cstdlib>

#include "vector.h"

namespace {

// A pair: the vector from the lower atom to the higher one is r_high + shift·cell − r_low.
struct Note {
    int32_t low, high;
    int32_t shift[3];
};

struct Notes {
    Note* items;
    int64_t n, room;
    bool reserve(int64_t more) {
        if (n + more <= room) return true;
        const int64_t wanted = (n + more) + (n + more) / 4 + 64;
        void* grown = realloc(items, size_t(wanted) * sizeof(Note));
        if (!grown) return false;
        items = (Note*)grown;
        room = wanted;
        return true;
    }
};

// Bins along the last axis follow each other in memory: they are finer, since a run of them costs one loop.
constexpr double BINS_PER_REACH[3] = {1.0, 1.0, 4.0};

struct Place {
    int32_t atom;
    int32_t wrapped[3];  // cells that it was moved by to lie in its own
};

// A structure whose positions lie in its cell, or in the box around them where it is not periodic.
struct Bins {
    int64_t n_atoms, n[3], range[3], total;
    double cell[3][3];
    bool periodic[3];
    double *x, *y, *z;        // of the atoms in the order of their bins
    Place* sorted;            // (n_atoms,) in that order
    int32_t* first;           // (total + 1,) where each bin begins
    int32_t *bin, *wrapped;   // (n_atoms, 3) of each atom in its own order: its bin, cells it was moved by
    double* home;             // (n_atoms, 3) positions in the cell
    void* memory;

    bool sort(const double* positions, const double* h, const double* inverse, const bool* pbc, int64_t count,
              double reach);
    bool search(double reach, int32_t offset, Notes& notes) const;
    bool look(int32_t one, int32_t begin, int32_t end, const int64_t* cells, double limit, int32_t offset,
              Notes& notes) const;
};

inline int64_t whole_below(double x) {
    const int64_t n = int64_t(x);
    return n > x ? n - 1 : n;
}

bool Bins::sort(const double* positions, const double* h, const double* inverse, const bool* pbc, int64_t count,
                double reach) {
    n_atoms = count;
    memcpy(cell, h, sizeof cell);
    memory = malloc(size_t(count) * (9 * sizeof(double) + sizeof(Place) + 6 * sizeof(int32_t)));
    if (!memory) return false;
    double* fractions = (double*)memory;
    home = fractions + 3 * count;
    x = home + 3 * count, y = x + count, z = y + count;
    sorted = (Place*)(z + count), bin = (int32_t*)(sorted + count), wrapped = bin + 3 * count;

    double low[3], high[3];
    for (int d = 0; d < 3; ++d) {
        periodic[d] = pbc[d];
        low[d] = pbc[d] ? 0.0 : 1e300;
        high[d] = pbc[d] ? 1.0 : -1e300;
    }
    for (int64_t a = 0; a < count; ++a) {
        const double* r = positions + 3 * a;
        for (int d = 0; d < 3; ++d) {
            double f = r[0] * inverse[d] + r[1] * inverse[3 + d] + r[2] * inverse[6 + d];
            int64_t moved = 0;
            if (pbc[d]) {
                moved = whole_below(f);
                f -= double(moved);
            } else {
                if (f < low[d]) low[d] = f;
                if (f > high[d]) high[d] = f;
            }
            fractions[3 * a + d] = f;
            wrapped[3 * a + d] = int32_t(moved);
        }
        for (int c = 0; c < 3; ++c)
            home[3 * a + c] = r[c] - (wrapped[3 * a] * h[c] + wrapped[3 * a + 1] * h[3 + c] + wrapped[3 * a + 2] * h[6 + c]);
    }
    double length[3];
    for (int d = 0; d < 3; ++d) {
        // The planes of a cell are 1/|column of the inverse| apart.
        const double across = 1.0 / __builtin_sqrt(inverse[d] * inverse[d] + inverse[3 + d] * inverse[3 + d] +
                                                   inverse[6 + d] * inverse[6 + d]);
        length[d] = (high[d] - low[d]) * across;
        const double wanted = BINS_PER_REACH[d] * length[d] / reach;
        n[d] = !(wanted >= 1.0) ? 1 : wanted > 1e4 ? 10000 : int64_t(wanted);
    }
    while (n[0] * n[1] * n[2] > 4 * count + 64) {  // a thin gas needs no more bins than atoms
        const int widest = n[0] >= n[1] && n[0] >= n[2] ? 0 : n[1] >= n[2] ? 1 : 2;
        n[widest] = (n[widest] + 1) / 2;
    }
    for (int d = 0; d < 3; ++d) {
        const double needed = length[d] > 0.0 ? reach * double(n[d]) / length[d] : 1.0;
        range[d] = periodic[d] ? int64_t(needed) + 1 : smaller(int64_t(needed < 2e4 ? needed : 2e4) + 1, n[d]);
    }
    total = n[0] * n[1] * n[2];
    first = (int32_t*)calloc(size_t(total + 1), sizeof(int32_t));
    if (!first) return false;
    for (int64_t a = 0; a < count; ++a) {
        int32_t* b = bin + 3 * a;
        for (int d = 0; d < 3; ++d) {
            const double extent = high[d] - low[d];
            const double at = extent > 0.0 ? (fractions[3 * a + d] - low[d]) / extent * double(n[d]) : 0.0;
            b[d] = int32_t(smaller(int64_t(at), n[d] - 1));
        }
        ++first[(b[0] * n[1] + b[1]) * n[2] + b[2] + 1];
    }
    for (int64_t b = 0; b < total; ++b) first[b + 1] += first[b];
    for (int64_t a = count - 1; a >= 0; --a) {  // from the back: the ends of bins become their beginnings
        const int32_t* b = bin + 3 * a;
        const int64_t slot = --first[(b[0] * n[1] + b[1]) * n[2] + b[2] + 1];
        sorted[slot] = {int32_t(a), {wrapped[3 * a], wrapped[3 * a + 1], wrapped[3 * a + 2]}};
        x[slot] = home[3 * a], y[slot] = home[3 * a + 1], z[slot] = home[3 * a + 2];
    }
    // first[b + 1] is now where bin b begins: move everything by one.
    for (int64_t b = 0; b < total; ++b) first[b] = first[b + 1];
    first[total] = int32_t(count);
    return true;
}

struct Image {
    int64_t bin, cells;
};

// The bin at some place along an axis, and how many cells away.
inline Image image_of(int64_t place, int64_t n) {
    const int64_t cells = place >= 0 ? place / n : -((-place + n - 1) / n);
    return {place - cells * n, cells};
}

// Note which of the atoms in places begin … end, moved by so many cells, are near the one in a place.
bool Bins::look(int32_t one, int32_t begin, int32_t end, const int64_t* cells, double limit, int32_t offset,
                Notes& notes) const {
    constexpr int CHUNK = 64;
    double p[3] = {x[one], y[one], z[one]};
    for (int c = 0; c < 3; ++c)
        p[c] -= double(cells[0]) * cell[0][c] + double(cells[1]) * cell[1][c] + double(cells[2]) * cell[2][c];
    const Place& a = sorted[one];
    for (int32_t at = begin; at < end; at += CHUNK) {
        double square[CHUNK];
        int32_t near[CHUNK];
        const int count = int(smaller(CHUNK, end - at));
        for (int k = 0; k < count; ++k) {
            const double dx = x[at + k] - p[0], dy = y[at + k] - p[1], dz = z[at + k] - p[2];
            square[k] = dx * dx + dy * dy + dz * dz;
        }
        int n = 0;
        for (int k = 0; k < count; ++k) {  // the next one takes the place of one too far away
            near[n] = at + k;
            n += square[k] < limit;
        }
        if (!notes.reserve(n)) return false;
        for (int k = 0; k < n; ++k) {
            const Place& b = sorted[near[k]];
            Note& note = notes.items[notes.n++];
            const bool up = a.atom <= b.atom;
            note.low = (up ? a.atom : b.atom) + offset;
            note.high = (up ? b.atom : a.atom) + offset;
            for (int d = 0; d < 3; ++d) {
                const int32_t s = int32_t(cells[d]) - b.wrapped[d] + a.wrapped[d];
                note.shift[d] = up ? s : -s;
            }
        }
    }
    return true;
}

bool Bins::search(double reach, int32_t offset, Notes& notes) const {
    const double limit = reach * reach;
    const int64_t here[3] = {0, 0, 0};
    for (int64_t bx = 0; bx < n[0]; ++bx)
        for (int64_t by = 0; by < n[1]; ++by)
            for (int64_t bz = 0; bz < n[2]; ++bz) {
                const int64_t own = (bx * n[1] + by) * n[2] + bz;
                const int32_t own_begin = first[own], own_end = first[own + 1];
                if (own_begin == own_end) continue;
                for (int32_t one = own_begin; one < own_end; ++one)
                    if (!look(one, one + 1, own_end, here, limit, offset, notes)) return false;
                // Of two opposite directions the one whose first step, along x, y or z, goes up.
                for (int64_t px = bx; px <= bx + range[0]; ++px) {
                    const Image ix = image_of(px, n[0]);
                    if (ix.cells && !periodic[0]) continue;
                    for (int64_t py = px > bx ? by - range[1] : by; py <= by + range[1]; ++py) {
                        const Image iy = image_of(py, n[1]);
                        if (iy.cells && !periodic[1]) continue;
                        int64_t bottom = px > bx || py > by ? bz - range[2] : bz + 1;
                        const int64_t top = bz + range[2];
                        while (bottom <= top) {  // runs of bins of one image lie together in memory
                            const Image iz = image_of(bottom, n[2]);
                            const int64_t last = smaller(top, (iz.cells + 1) * n[2] - 1);
                            const int64_t run = last - bottom;
                            bottom = last + 1;
                            if (iz.cells && !periodic[2]) continue;
                            const int64_t row = (ix.bin * n[1] + iy.bin) * n[2] + iz.bin;
                            const int64_t cells[3] = {ix.cells, iy.cells, iz.cells};
                            for (int32_t one = own_begin; one < own_end; ++one)
                                if (!look(one, first[row], first[row + run + 1], cells, limit, offset, notes)) return false;
                        }
                    }
                }
            }
    return true;
}


// The edges as they are dealt out.
struct Edges {
    int64_t *center, *neighbor;
    double* shift;

    // Put an edge behind those of its centre, before images of the same neighbour that are moved further.
    void put(int64_t slot, int64_t begin, int64_t i, int64_t j, double s0, double s1, double s2) {
        while (slot > begin && neighbor[slot - 1] == j) {
            const double* t = shift + 3 * (slot - 1);
            if (t[0] < s0 || (t[0] == s0 && (t[1] < s1 || (t[1] == s1 && t[2] <= s2)))) break;
            for (int d = 0; d < 3; ++d) shift[3 * slot + d] = t[d];
            neighbor[slot] = j;
            center[slot] = i;
            --slot;
        }
        center[slot] = i;
        neighbor[slot] = j;
        shift[3 * slot] = s0, shift[3 * slot + 1] = s1, shift[3 * slot + 2] = s2;
    }
};

}  // namespace

extern "C" {

void kg_neighbors_free(void* handle) {
    Notes* notes = (Notes*)handle;
    free(notes->items);
    free(notes);
}

// Find the pairs of a batch. ``cells`` and ``inverses`` are (n_systems, 3, 3), with vectors also along directions
// that are not periodic; ``counts`` are atoms per system. The number of edges, two a pair, is left in ``n_edges``;
// −1: no memory. Gives a handle for kg_neighbors_take.
void* kg_neighbors_find(int64_t n_systems, const int64_t* counts, const double* positions, const double* cells,
                        const double* inverses, const bool* pbc, const double* reach, int64_t* n_edges) {
    Notes* notes = (Notes*)calloc(1, sizeof(Notes));
    *n_edges = -1;
    if (!notes) return nullptr;
    int64_t atom = 0;
    for (int64_t s = 0; s < n_systems; atom += counts[s++]) {
        if (!counts[s]) continue;
        Bins bins{};
        const bool ok = bins.sort(positions + 3 * atom, cells + 9 * s, inverses + 9 * s, pbc + 3 * s, counts[s], *reach) &&
                        bins.search(*reach, int32_t(atom), *notes);
        free(bins.memory);
        free(bins.first);
        if (!ok) {
            kg_neighbors_free(notes);
            return nullptr;
        }
    }
    *n_edges = 2 * notes->n;
    return notes;
}

// Numbers of workspace that kg_neighbors_take needs.
int64_t kg_neighbors_numbers(int64_t n_atoms, int64_t n_edges) { return 5 * (n_atoms + 1) + n_edges / 2; }

// Deal the pairs out to their atoms: centre, neighbour (n_edges,) and shift (n_edges, 3), sorted by these.
// Frees the handle.
void kg_neighbors_take(void* handle, int64_t n, int64_t* workspace, int64_t* center, int64_t* neighbor, double* shift) {
    const Notes& notes = *(Notes*)handle;
    Edges edges{center, neighbor, shift};
    // For each atom where its list begins: lower neighbours, its own images, higher ones; and where each part goes on.
    int64_t *lower = workspace, *own = lower + n + 1, *higher = own + n + 1, *next = higher + n + 1,
            *own_begin = next + n + 1, *by_high = own_begin + n + 1;
    memset(workspace, 0, size_t(4 * (n + 1)) * sizeof(int64_t));
    for (int64_t k = 0; k < notes.n; ++k) {
        const Note& note = notes.items[k];
        if (note.low == note.high) own[note.low] += 2;
        else ++lower[note.high], ++higher[note.low];
        ++next[note.high];
    }
    for (int64_t a = 0, at = 0, noted = 0; a < n; ++a) {
        const int64_t n_lower = lower[a], n_own = own[a], n_higher = higher[a], n_noted = next[a];
        lower[a] = at, own[a] = own_begin[a] = at + n_lower, higher[a] = at + n_lower + n_own;
        at = higher[a] + n_higher;
        next[a] = noted;
        noted += n_noted;
    }
    lower[n] = 2 * notes.n;
    for (int64_t k = 0; k < notes.n; ++k) by_high[next[notes.items[k].high]++] = k;
    // By the higher atom, so that the higher neighbours of each come in order …
    for (int64_t k = 0; k < notes.n; ++k) {
        const Note& note = notes.items[by_high[k]];
        const double s[3] = {double(note.shift[0]), double(note.shift[1]), double(note.shift[2])};
        const int64_t i = note.low, j = note.high;
        int64_t& slot = i == j ? own[i] : higher[i];
        const int64_t begin = own_begin[i];  // before it nothing is written yet
        edges.put(slot++, begin, i, j, s[0], s[1], s[2]);
        if (i == j) edges.put(slot++, begin, i, i, 0.0 - s[0], 0.0 - s[1], 0.0 - s[2]);
    }
    // … and then by the lower atom, for the lower neighbours.
    int64_t* filled = next;  // how far the lower part of each is filled
    memcpy(filled, lower, size_t(n) * sizeof(int64_t));
    for (int64_t i = 0; i < n; ++i)
        for (int64_t slot = own[i]; slot < higher[i]; ++slot) {
            const double* s = shift + 3 * slot;
            const int64_t j = neighbor[slot];
            edges.put(filled[j]++, lower[j], j, i, 0.0 - s[0], 0.0 - s[1], 0.0 - s[2]);
        }
    kg_neighbors_free(handle);
}
}
