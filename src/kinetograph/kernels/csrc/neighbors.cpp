// Pairs of atoms within a distance, every periodic image of its own, found in bins.
//
// Atoms are sorted into bins. Every atom in turn, as a neighbour, looks through the bins around it for its
// centres and notes them; the notes are then dealt out to the centres. So the neighbours of each come out in
// ascending order, and images of one neighbour in ascending order of their shifts, without a sort.
#include <cstdlib>

#include "vector.h"

namespace {

struct Note {
    int32_t center;
    int32_t shift[3];
};

struct Notes {
    Note* items = nullptr;
    int64_t n = 0, room = 0;
    bool failed = false;
    void reserve(int64_t more) {
        if (n + more <= room) return;
        room = 2 * (n + more);
        void* grown = realloc(items, size_t(room) * sizeof(Note));
        if (!grown) failed = true;
        else items = (Note*)grown;
    }
};

// A structure whose positions lie in its cell, or in the box around them where it is not periodic.
struct Bins {
    int64_t n_atoms, n[3], range[3], total;
    double cell[3][3];
    bool periodic[3];
    double *x, *y, *z;        // of the atoms in the order of their bins
    Note* sorted;             // (n_atoms,) in that order: which atom, and cells it was moved by
    int32_t* first;           // (total + 1,) where each bin begins
    int32_t *bin, *wrapped;   // (n_atoms, 3) of each atom in its own order: its bin, cells it was moved by
    double* home;             // (n_atoms, 3) positions in the cell
    void* memory;

    bool sort(const double* positions, const double* h, const double* inverse, const bool* pbc, int64_t count,
              double reach);
    void search(double reach, Notes& notes, int64_t* ends) const;
};

inline int64_t whole_below(double x) {
    const int64_t n = int64_t(x);
    return n > x ? n - 1 : n;
}

bool Bins::sort(const double* positions, const double* h, const double* inverse, const bool* pbc, int64_t count,
                double reach) {
    n_atoms = count;
    memcpy(cell, h, sizeof cell);
    memory = malloc(size_t(count) * (9 * sizeof(double) + sizeof(Note) + 6 * sizeof(int32_t)));
    if (!memory) return false;
    double* fractions = (double*)memory;
    home = fractions + 3 * count;
    x = home + 3 * count, y = x + count, z = y + count;
    sorted = (Note*)(z + count), bin = (int32_t*)(sorted + count), wrapped = bin + 3 * count;

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
        const double wanted = 2.0 * length[d] / reach;  // bins of half the reach
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

void Bins::search(double reach, Notes& notes, int64_t* ends) const {
    constexpr int CHUNK = 64;
    const double limit = reach * reach;
    for (int64_t j = 0; j < n_atoms; ++j) {
        const int32_t *b = bin + 3 * j, *wj = wrapped + 3 * j;
        // From the largest shift to the smallest: seen from the centre its sign is the other.
        for (int64_t px = b[0] + range[0]; px >= b[0] - range[0]; --px) {
            const Image ix = image_of(px, n[0]);
            if (ix.cells && !periodic[0]) continue;
            for (int64_t py = b[1] + range[1]; py >= b[1] - range[1]; --py) {
                const Image iy = image_of(py, n[1]);
                if (iy.cells && !periodic[1]) continue;
                int64_t top = b[2] + range[2];
                const int64_t bottom = b[2] - range[2];
                while (top >= bottom) {  // runs of bins of one image lie together in memory
                    const Image iz = image_of(top, n[2]);
                    const int64_t begin_place = iz.cells * n[2] > bottom ? iz.cells * n[2] : bottom;
                    const int64_t run = top - begin_place;
                    top = begin_place - 1;
                    if (iz.cells && !periodic[2]) continue;
                    const int64_t row = (ix.bin * n[1] + iy.bin) * n[2] + iz.bin;
                    const int32_t begin = first[row - run], end = first[row + 1];
                    double p[3];
                    for (int c = 0; c < 3; ++c)
                        p[c] = home[3 * j + c] - (double(ix.cells) * cell[0][c] + double(iy.cells) * cell[1][c] +
                                                  double(iz.cells) * cell[2][c]);
                    const int32_t self = ix.cells || iy.cells || iz.cells ? -1 : int32_t(j);
                    const int32_t moved[3] = {int32_t(ix.cells) + wj[0], int32_t(iy.cells) + wj[1],
                                              int32_t(iz.cells) + wj[2]};
                    notes.reserve(end - begin + 1);
                    if (notes.failed) return;
                    Note* note = notes.items + notes.n;
                    for (int32_t at = begin; at < end; at += CHUNK) {
                        double square[CHUNK];
                        const int count = int(smaller(CHUNK, end - at));
                        for (int k = 0; k < count; ++k) {
                            const double dx = x[at + k] - p[0], dy = y[at + k] - p[1], dz = z[at + k] - p[2];
                            square[k] = dx * dx + dy * dy + dz * dz;
                        }
                        for (int k = 0; k < count; ++k) {  // the next one takes the place of one too far away
                            const Note& other = sorted[at + k];
                            note->center = other.center;
                            for (int d = 0; d < 3; ++d) note->shift[d] = other.shift[d] - moved[d];
                            note += (square[k] < limit) & (other.center != self);
                        }
                    }
                    notes.n = note - notes.items;
                }
            }
        }
        ends[j] = notes.n;
    }
}

struct Found {
    Notes notes;
    int64_t n_atoms;
    int64_t* ends;  // (n_atoms,) where the notes of each neighbour end
};

}  // namespace

extern "C" {

void kg_neighbors_free(void* handle) {
    Found* found = (Found*)handle;
    free(found->notes.items);
    free(found->ends);
    free(found);
}

// Find the pairs of a batch. ``cells`` and ``inverses`` are (n_systems, 3, 3), with vectors also along directions
// that are not periodic; ``counts`` are atoms per system. The number of edges is left in ``n_edges``; −1: no
// memory. Gives a handle for the functions below.
void* kg_neighbors_find(int64_t n_systems, const int64_t* counts, const double* positions, const double* cells,
                        const double* inverses, const bool* pbc, const double* reach, int64_t* n_edges) {
    Found* found = (Found*)calloc(1, sizeof(Found));
    *n_edges = -1;
    if (!found) return nullptr;
    for (int64_t s = 0; s < n_systems; ++s) found->n_atoms += counts[s];
    found->ends = (int64_t*)malloc(size_t(found->n_atoms + 1) * sizeof(int64_t));
    bool ok = found->ends;
    int64_t atom = 0;
    for (int64_t s = 0; s < n_systems && ok; ++s) {
        if (!counts[s]) continue;
        Bins bins{};
        ok = bins.sort(positions + 3 * atom, cells + 9 * s, inverses + 9 * s, pbc + 3 * s, counts[s], *reach);
        const int64_t before = found->notes.n;
        if (ok) {
            bins.search(*reach, found->notes, found->ends + atom);
            ok = !found->notes.failed;
        }
        if (ok)
            for (int64_t k = before; k < found->notes.n; ++k) found->notes.items[k].center += int32_t(atom);
        free(bins.memory);
        free(bins.first);
        atom += counts[s];
    }
    if (!ok) {
        kg_neighbors_free(found);
        return nullptr;
    }
    *n_edges = found->notes.n;
    return found;
}

// Deal the pairs out to their centres: centre, neighbour (n_edges,) and shift (n_edges, 3). ``next`` is
// workspace for n_atoms + 1 numbers. Frees the handle.
void kg_neighbors_take(void* handle, int64_t* next, int64_t* center, int64_t* neighbor, double* shift) {
    Found* found = (Found*)handle;
    const Notes& notes = found->notes;
    memset(next, 0, size_t(found->n_atoms + 1) * sizeof(int64_t));
    for (int64_t k = 0; k < notes.n; ++k) ++next[notes.items[k].center + 1];
    for (int64_t a = 0; a < found->n_atoms; ++a) next[a + 1] += next[a];
    int64_t k = 0;
    for (int64_t j = 0; j < found->n_atoms; ++j)
        for (; k < found->ends[j]; ++k) {
            const Note& note = notes.items[k];
            const int64_t slot = next[note.center]++;
            center[slot] = note.center;
            neighbor[slot] = j;
            for (int d = 0; d < 3; ++d) shift[3 * slot + d] = double(note.shift[d]);
        }
    kg_neighbors_free(found);
}
}
