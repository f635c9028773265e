// Networks on rows — edges or atoms — whose tiles stay in cache: a chain of dense layers, sums and products, from
// tensors to tensors, and its derivatives by what it read. What the derivatives need is kept on a tape.
#include "product.h"

namespace {

constexpr int64_t TILE = 96;

enum Kind { READ, LINEAR, SILU, ADD, MULTIPLY, WRITE };

struct Step {
    int64_t kind, width, n_in;           // width of what it gives; of what a layer is given
    int64_t from, with, to;              // slots of values
    int64_t by_from, by_with, by_to;     // slots of derivatives by them; −1: not wanted
    int64_t adds_from, adds_with;        // whether the slot holds a part of the derivative already
    int64_t tensor, index;               // what is read or written; index of rows, −1: row by row
    int64_t tape;                        // floats of a row that steps before this one keep
    double scale;                        // of an activation or a sum
    const float *weights, *back, *bias;  // packed, transposed and packed; the bias may be null
};

struct Tile {
    float* memory;
    int64_t largest;
    float* slot(int64_t number) const { return memory + number * TILE * largest; }
};

INLINE void put(float* to, vf x, bool add) { store(to, add ? load(to) + x : x); }

INLINE int64_t row_of(const int64_t* index, int64_t row) { return index ? index[row] : row; }

// y → scale · silu(y) in place, and the slope to the tape unless that is null.
void activate(float* y, float scale, float* tape, int64_t n) {
    for (int64_t i = 0; i < n; i += W) {
        const vf x = load(y + i), s = inverse(1.0f + exp_of_minus(x));
        store(y + i, scale * x * s);
        if (tape) store(tape + i, scale * s * (1.0f + x * (1.0f - s)));
    }
}

void forward(const Step& s, const Tile& tile, int64_t begin, int64_t n, float* const* tensors,
             const int64_t* const* indices, float* tape) {
    const int64_t w = s.width, size = n * w;
    const int64_t* index = s.index < 0 ? nullptr : indices[s.index];
    float* kept = tape ? tape + s.tape * TILE : nullptr;
    const float *from = tile.slot(s.from), *with = tile.slot(s.with);
    float* to = tile.slot(s.to);
    switch (s.kind) {
        case READ:
            for (int64_t r = 0; r < n; ++r)
                memcpy(to + r * w, tensors[s.tensor] + row_of(index, begin + r) * w, size_t(w) * sizeof(float));
            break;
        case WRITE:
            for (int64_t r = 0; r < n; ++r) {
                float* out = tensors[s.tensor] + row_of(index, begin + r) * w;
                for (int64_t i = 0; i < w; i += W) put(out + i, load(from + r * w + i), index);
            }
            break;
        case LINEAR:
        case SILU:
            product(n, from, s.n_in, s.weights, s.n_in, w, s.bias, to, w);
            if (s.with >= 0)
                for (int64_t i = 0; i < size; i += W) put(to + i, load(with + i), true);
            if (s.kind == SILU) activate(to, float(s.scale), kept, size);
            break;
        case ADD:
            for (int64_t i = 0; i < size; i += W) store(to + i, float(s.scale) * (load(from + i) + load(with + i)));
            break;
        case MULTIPLY:
            for (int64_t i = 0; i < size; i += W) store(to + i, load(from + i) * load(with + i));
            if (kept) {
                memcpy(kept, from, size_t(size) * sizeof(float));
                memcpy(kept + TILE * w, with, size_t(size) * sizeof(float));
            }
    }
}

void backward(const Step& s, const Tile& tile, int64_t begin, int64_t n, float* const* tensors,
              const int64_t* const* indices, const float* tape) {
    const int64_t w = s.width, size = n * w;
    const int64_t* index = s.index < 0 ? nullptr : indices[s.index];
    const float* kept = tape + s.tape * TILE;
    float *by_from = tile.slot(s.by_from), *by_with = tile.slot(s.by_with), *by_to = tile.slot(s.by_to);
    const bool of_from = s.by_from >= 0, of_with = s.by_with >= 0;
    switch (s.kind) {
        case READ:
            for (int64_t r = 0; s.by_to >= 0 && r < n; ++r) {
                float* out = tensors[s.tensor] + row_of(index, begin + r) * w;
                for (int64_t i = 0; i < w; i += W) put(out + i, load(by_to + r * w + i), index);
            }
            break;
        case WRITE:
            for (int64_t r = 0; of_from && r < n; ++r) {
                const float* by = tensors[s.tensor] + row_of(index, begin + r) * w;
                for (int64_t i = 0; i < w; i += W) put(by_from + r * w + i, load(by + i), s.adds_from);
            }
            break;
        case SILU:
            for (int64_t i = 0; s.by_to >= 0 && i < size; i += W) store(by_to + i, load(by_to + i) * load(kept + i));
            [[fallthrough]];
        case LINEAR:
            if (of_from && s.adds_from)
                product<Activation::NONE, true>(n, by_to, w, s.back, w, s.n_in, nullptr, by_from, s.n_in);
            else if (of_from)
                product(n, by_to, w, s.back, w, s.n_in, nullptr, by_from, s.n_in);
            for (int64_t i = 0; of_with && i < size; i += W) put(by_with + i, load(by_to + i), s.adds_with);
            break;
        case ADD:
            for (int64_t i = 0; of_from && i < size; i += W)
                put(by_from + i, float(s.scale) * load(by_to + i), s.adds_from);
            for (int64_t i = 0; of_with && i < size; i += W)
                put(by_with + i, float(s.scale) * load(by_to + i), s.adds_with);
            break;
        case MULTIPLY:
            for (int64_t i = 0; of_from && i < size; i += W)
                put(by_from + i, load(by_to + i) * load(kept + TILE * w + i), s.adds_from);
            for (int64_t i = 0; of_with && i < size; i += W)
                put(by_with + i, load(by_to + i) * load(kept + i), s.adds_with);
    }
}

}  // namespace

extern "C" {

int64_t kg_chain_tile() { return TILE; }

// Run a chain over all rows. ``tensors`` are the ones that are read and written, by number; those written through
// an index hold zeros. The tape has room for whole tiles of ``tape_width`` floats a row, or is null. ``memory`` is for
// n_slots × kg_chain_tile() × largest floats.
void kg_chain(const Step* steps, int64_t n_steps, int64_t n_rows, float* const* tensors, const int64_t* const* indices,
              float* tape, int64_t tape_width, float* memory, int64_t largest) {
    for (int64_t begin = 0; begin < n_rows; begin += TILE)
        for (int64_t k = 0; k < n_steps; ++k)
            forward(steps[k], {memory, largest}, begin, smaller(TILE, n_rows - begin), tensors, indices,
                    tape ? tape + begin * tape_width : nullptr);
}

// The same backwards: ``tensors`` are the derivatives by those written, which are read, and by those read, which are
// written.
void kg_chain_back(const Step* steps, int64_t n_steps, int64_t n_rows, float* const* tensors,
                   const int64_t* const* indices, const float* tape, int64_t tape_width, float* memory,
                   int64_t largest) {
    for (int64_t begin = 0; begin < n_rows; begin += TILE)
        for (int64_t k = n_steps - 1; k >= 0; --k)
            backward(steps[k], {memory, largest}, begin, smaller(TILE, n_rows - begin), tensors, indices,
                     tape + begin * tape_width);
}
}
