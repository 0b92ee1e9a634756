"""What stands in payloads: chunks, and groups of resident tensors. Bytes go in, bytes of elements come
out; decode.py finds them in archives. Sections are numbered as on docs/format.md.
"""

import contextlib
import struct


class Corrupt(Exception):
    """The archive breaks a rule of the format; the message says where and which."""


@contextlib.contextmanager
def where(place):
    """Puts `place` before the message of every failure inside."""
    try:
        yield
    except Corrupt as error:
        raise Corrupt("%s: %s" % (place, error)) from None


def check(rule_holds, message, *arguments):
    if not rule_holds:
        raise Corrupt(message % arguments if arguments else message)


class Reader:
    """Takes integers and byte strings off the front of `data`, never past its end."""

    def __init__(self, data):
        self.data, self.offset = data, 0

    def left(self):
        return len(self.data) - self.offset

    def take(self, len_bytes):
        check(len_bytes <= self.left(), "wants %d bytes, only %d are left", len_bytes, self.left())
        self.offset += len_bytes
        return self.data[self.offset - len_bytes : self.offset]

    def ints(self, code, count):
        """`count` little-endian integers; `code` is B, H, I or Q for 1, 2, 4 or 8 bytes."""
        return struct.unpack("<%d%s" % (count, code), self.take(count * struct.calcsize("<" + code)))

    def int(self, code):
        return self.ints(code, 1)[0]

    def end(self, what):
        check(self.left() == 0, "%d bytes too many at the end of %s", self.left(), what)


# ---- 4. Chunk ------------------------------------------------------------------------------------

WIDTHS = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "C64": 4,
          "BF16": 2, "F16": 2, "I16": 2, "U16": 2}


def chunk_bytes(chunk, n, width):
    """The bytes of `n` elements of `width` bytes."""
    reader = Reader(chunk)
    split = reader.int("B")
    fits = {0: True, 1: width == 1, 4: width >= 2, 6: width >= 2, 7: width >= 2, 9: width == 2}
    check(fits.get(split, False), "split %d", split)
    if split == 0:
        planes = [(8, "byte")] * width
    elif split == 1:
        planes = [(1, "sign"), (7, "rest")]
    elif split == 9:
        planes = [(8, "byte"), (2, "low"), (6, "field")]
    else:
        planes = [(8, "byte")] * (width - 2) + [(split + 1, "low"), (15 - split, "field")]
    heads = [(reader.int("B"), reader.int("I")) for _ in planes]
    values = []
    for index, ((bits, role), (coder, len_bytes)) in enumerate(zip(planes, heads)):
        with where("plane %d" % index):
            allowed = (1, 2, 3) if role == "field" else (0, 1, 3)
            check(coder in allowed, "coder %d", coder)
            payload = Reader(reader.take(len_bytes))
            values.append(CODERS[coder](payload, n, bits))
            payload.end("the plane")
            check(max(values[-1]) < 1 << bits, "a value has more than %d bits", bits)
    reader.end("the chunk")
    if split == 1:
        values = [[sign << 7 | rest for sign, rest in zip(*values)]]
    elif split == 9:
        top = [(low >> 1) << 15 | field << 9 | (low & 1) << 8 | byte for byte, low, field in zip(*values)]
        values = [[half & 255 for half in top], [half >> 8 for half in top]]
    elif split > 0:
        field_values, low_values = values.pop(), values.pop()
        mask = (1 << split) - 1
        top = [(low >> split) << 15 | value << split | (low & mask)
               for low, value in zip(low_values, field_values)]
        values += [[half & 255 for half in top], [half >> 8 for half in top]]
    element_bytes = bytearray(n * width)
    for j, plane in enumerate(values):
        element_bytes[j::width] = bytes(plane)
    return bytes(element_bytes)


# ---- 5. Coders -----------------------------------------------------------------------------------

def decode_raw(reader, n, bits):
    number = int.from_bytes(reader.take(-(-n * bits // 8)), "little")
    check(number >> n * bits == 0, "unused bits are not zero")
    if bits == 8:
        return list(number.to_bytes(n, "little"))
    values, mask = [], (1 << bits) - 1
    for first in range(0, n, 1024):  # in pieces: shifting the whole number each time is quadratic
        piece = number >> first * bits & (1 << 1024 * bits) - 1
        values += [piece >> i * bits & mask for i in range(min(1024, n - first))]
    return values


def decode_constant(reader, n, bits):
    return [reader.int("H")] * n


def decode_rans8(reader, n, bits):
    base = reader.int("H")
    frequencies = reader.ints("B", 32)
    n_escapes = reader.int("I")
    meaning = [base + s for s in range(31)] + [None]
    values = decode_rans(reader, n, bits, 128, (8, 1), frequencies, meaning)
    return fill_escapes(values, n_escapes, read_escapes(reader, n_escapes))


def decode_rans12(reader, n, bits):
    base = reader.int("H")
    present = int.from_bytes(reader.take(32), "little")
    frequencies = [0] * 256
    for s in range(256):
        if present >> s & 1:
            v = reader.int("B")
            if v >= 128:
                v = v & 127 | reader.int("B") << 7
                check(v >= 128, "a frequency takes two bytes where one is enough")
            frequencies[s] = v + 1
    check(bin(present).count("1") >= 2, "fewer than two symbols are present")
    n_escapes = reader.int("I")
    if bits <= 8:
        check(base == 0 and n_escapes == 0, "base and n_escapes are not 0")
        return decode_rans(reader, n, bits, 64, (12, 2), frequencies, list(range(256)))
    meaning = [base + s for s in range(255)] + [None]
    values = decode_rans(reader, n, bits, 64, (12, 2), frequencies, meaning)
    return fill_escapes(values, n_escapes, read_escapes(reader, n_escapes))


def decode_rans(reader, n, bits, n_lanes, widths, frequencies, meaning):
    """Both rANS coders: `widths` is bits of a probability and bytes of a stream word. An escape
    comes back as None. The tail, which follows the streams, is decoded too."""
    prob_bits, word_bytes = widths
    lowest_state = 1 << prob_bits if word_bytes == 1 else 1 << 16
    check(sum(frequencies) == 1 << prob_bits, "frequencies do not sum to %d", 1 << prob_bits)
    slots = []  # for each slot: the symbol's meaning, its freq, and slot - start
    for freq, value in zip(frequencies, meaning):
        check(freq == 0 or value is None or value < 1 << bits, "a symbol has more than %d bits", bits)
        slots += [(value, freq, rest) for rest in range(freq)]
    stream_len = reader.ints("I", 4)
    states = reader.ints("H" if word_bytes == 1 else "I", n_lanes)
    check(min(states) >= lowest_state, "an initial state is below %d", lowest_state)
    values, n_group = [0] * (n - n % n_lanes), n_lanes // 4
    for group in range(4):
        check(stream_len[group] % word_bytes == 0, "a stream's length is odd")
        words = reader.ints("B" if word_bytes == 1 else "H", stream_len[group] // word_bytes)
        x = list(states[group * n_group : (group + 1) * n_group])
        n_used = decode_group(x, words, slots, values, group * n_group, n_lanes, prob_bits, lowest_state)
        check(n_used == len(words), "a stream is not used up")
        check(all(state == lowest_state for state in x), "a lane does not end at %d", lowest_state)
    return values + list(reader.ints("H", n % n_lanes))


def decode_group(x, words, slots, values, first, n_lanes, prob_bits, lowest_state):
    """Decodes the lanes `x` of one group into `values`; returns how many words were used."""
    mask, word_bits, n_used = (1 << prob_bits) - 1, 8 if prob_bits == 8 else 16, 0
    lanes = range(len(x))
    for step in range(first, len(values), n_lanes):
        for lane in lanes:
            state = x[lane]
            values[step + lane], freq, rest = slots[state & mask]
            state = freq * (state >> prob_bits) + rest
            if state < lowest_state:
                check(n_used < len(words), "a stream ends too early")
                state = state << word_bits | words[n_used]
                n_used += 1
            x[lane] = state
    return n_used


def read_escapes(reader, n_escapes):
    n_common = reader.int("B")
    check(n_common <= 15, "n_common is %d", n_common)
    common = reader.ints("H", n_common)
    packed = reader.take((n_escapes + 1) // 2)
    nibbles = [nibble for byte in packed for nibble in (byte & 15, byte >> 4)]
    check(not any(nibbles[n_escapes:]), "the unused nibble is not 0")
    nibbles = nibbles[:n_escapes]
    rest = iter(reader.ints("H", nibbles.count(15)))
    check(all(nibble == 15 or nibble < n_common for nibble in nibbles), "a nibble names no common value")
    return [next(rest) if nibble == 15 else common[nibble] for nibble in nibbles]


def fill_escapes(values, n_escapes, escapes):
    check(values.count(None) == n_escapes, "%d escapes are used, not %d", values.count(None), n_escapes)
    following = iter(escapes)
    return [next(following) if value is None else value for value in values]


CODERS = {0: decode_raw, 1: decode_constant, 2: decode_rans8, 3: decode_rans12}


# ---- 7. Resident tensors -------------------------------------------------------------------------

LAYOUTS = {"exact11": (4, 192, 7), "exact12": (5, 256, 15)}  # id, bytes of a cell's codes, the escape


class Matrix:
    """How a resident tensor is cut."""

    def __init__(self, layout, tensor):
        shape = tensor.shape
        check(tensor.dtype == "BF16", "dtype %s", tensor.dtype)
        check(len(shape) == 2 and all(type(n) is int and n >= 1 for n in shape), "shape %r", shape)
        check(shape[1] <= 524288, "%d columns", shape[1])
        self.rows, self.cols = shape
        self.n_cells = -(-self.cols // 32)
        self.group_rows = 16 * max(1, 1024 // self.n_cells)
        self.chunk_bytes = self.group_rows * self.cols * 2
        self.layout_id, self.code_bytes, self.escape = LAYOUTS[layout]
        check(tensor.len_bytes == 2 * self.rows * self.cols, "%d bytes", tensor.len_bytes)


def group_bytes(group, matrix, n_rows):
    """The bytes of the `n_rows` rows of a group."""
    n_tiles = -(-n_rows // 16)
    table_end = 64 + 8 * (n_tiles + 1)
    check(len(group) >= table_end, "it ends before its table does")
    cells_at, nibbles_at, raw_at, found_tiles, flags, layout_id = struct.unpack_from("<IIIIIB", group, 24)
    check(layout_id == matrix.layout_id, "layout %d", layout_id)
    check(found_tiles == n_tiles, "%d tiles instead of %d", found_tiles, n_tiles)
    check(flags in (0, 1) and not any(group[45:64]), "flags that are not 0")
    table = struct.unpack_from("<%dI" % (2 * n_tiles + 2), group, 64)
    nibble_start, raw_start = table[0::2], table[1::2]
    for starts in (nibble_start, raw_start):
        check(starts[0] == 0 and list(starts) == sorted(starts), "the table does not ascend from 0")
    check(matrix.escape == 7 or nibble_start[-1] == 0, "nibbles in exact12")
    tile_bytes = matrix.n_cells * (matrix.code_bytes + 512)
    check(cells_at == table_end + -table_end % 64, "the cells begin at %d", cells_at)
    check(nibbles_at == cells_at + n_tiles * tile_bytes, "the nibbles begin at %d", nibbles_at)
    check(raw_at == nibbles_at + nibble_start[-1], "the raw bytes begin at %d", raw_at)
    end = raw_at + raw_start[-1] + 64
    check(len(group) == end + -end % 64, "%d bytes instead of %d", len(group), end + -end % 64)
    parts = []
    for tile in range(n_tiles):
        with where("tile %d" % tile):
            cells = group[cells_at + tile * tile_bytes : cells_at + (tile + 1) * tile_bytes]
            nibbles = group[nibbles_at + nibble_start[tile] : nibbles_at + nibble_start[tile + 1]]
            raw = group[raw_at + raw_start[tile] : raw_at + raw_start[tile + 1]]
            parts += tile_rows(cells, nibbles, raw, group[:23], matrix)[: n_rows - 16 * tile]
    weights = set(weight & 0x7FFF for row in parts for weight in row)
    is_wide = any(0 < weight < (127 - 62) << 7 or weight >= 255 << 7 for weight in weights)
    check(flags == is_wide, "the flags are %d", flags)
    return b"".join(struct.pack("<%dH" % matrix.cols, *row) for row in parts)


def tile_rows(cells, nibbles, raw, palettes, matrix):
    """The 16 rows of a tile, each a list of weights without what fills up its last cell."""
    rows, cell_bytes = [[0] * (32 * matrix.n_cells) for _ in range(16)], matrix.code_bytes + 512
    palette, second = (palettes[0:7], palettes[8:23]) if matrix.escape == 7 else (palettes[8:23], None)
    n_nibbles = n_raw = 0
    for cell in range(matrix.n_cells):
        packed = cells[cell * cell_bytes : cell * cell_bytes + matrix.code_bytes]
        lows = cells[cell * cell_bytes + matrix.code_bytes : (cell + 1) * cell_bytes]
        for index, code in enumerate(CODES[matrix.escape](packed)):
            if code < matrix.escape:
                high = palette[code]
            else:
                nibble = 15
                if second is not None:
                    check(n_nibbles < 2 * len(nibbles), "more escapes than nibbles")
                    nibble = nibbles[n_nibbles // 2] >> 4 * (n_nibbles % 2) & 15
                    n_nibbles += 1
                if nibble < 15:
                    high = second[nibble]
                else:
                    check(n_raw < len(raw), "more escapes than raw bytes")
                    high = raw[n_raw]
                    n_raw += 1
            b, i = index // 64, index % 64
            rows[4 * (i >> 4) + (i >> 1 & 3)][32 * cell + 4 * b + 2 * (i >> 3 & 1) + (i & 1)] = high << 8 | lows[index]
    check(-(-n_nibbles // 2) == len(nibbles) and n_raw == len(raw), "escapes are not used up")
    return [row[: matrix.cols] for row in rows]


def codes_exact11(packed):
    """The 512 codes of a cell, block after block."""
    a, b, c = packed[0:64], packed[64:128], packed[128:192]
    codes = []
    for vector in (a, b, c):
        codes += [byte & 7 for byte in vector] + [byte >> 3 & 7 for byte in vector]
    codes += [(x >> 6) + 4 * (z >> 6 & 1) for x, z in zip(a, c)]
    return codes + [(y >> 6) + 4 * (z >> 7) for y, z in zip(b, c)]


def codes_exact12(packed):
    codes = []
    for q in range(4):
        vector = packed[64 * q : 64 * q + 64]
        codes += [byte & 15 for byte in vector] + [byte >> 4 for byte in vector]
    return codes


CODES = {7: codes_exact11, 15: codes_exact12}


# ---- 8. Grids ------------------------------------------------------------------------------------

class Grid:
    """How a grid is cut, and its steps."""

    def __init__(self, tensor, coded_bytes):
        shape = tensor.shape
        check(tensor.dtype == "BF16", "dtype %s", tensor.dtype)
        check(len(shape) == 2 and all(type(n) is int and n >= 1 for n in shape), "shape %r", shape)
        check(shape[1] <= 524288, "%d columns", shape[1])
        self.rows, self.cols = shape
        check(tensor.len_bytes == 2 * self.rows * self.cols, "%d bytes", tensor.len_bytes)
        self.chunk_rows = max(1, coded_bytes // (2 * self.cols))
        self.chunk_bytes = self.chunk_rows * 2 * self.cols

    def rows_of(self, chunk_index):
        first = chunk_index * self.chunk_rows
        return range(first, min(self.rows, first + self.chunk_rows))

    def read_steps(self, reader):
        self.row_steps = [step_of(word) for word in reader.ints("H", self.rows)]
        self.col_steps = [step_of(word) for word in reader.ints("H", self.cols)]


def step_of(word):
    step = struct.unpack("<f", struct.pack("<I", word << 16))[0]
    check(word == 0 or 2.0**-60 <= step <= 2.0**60, "the step %r", step)
    return step


def rows_bytes(chunk, grid, rows):
    """The values of these rows."""
    parts = []
    for row, of_row in zip(rows, row_indices(chunk, grid, rows)):
        parts += [bf16(grid.row_steps[row] * (step * index)) for step, index in zip(grid.col_steps, of_row)]
    return struct.pack("<%dH" % len(parts), *parts)


def row_indices(chunk, grid, rows):
    """The indices of each of these rows."""
    reader = Reader(chunk)
    n_classes = reader.int("B")
    check(1 <= n_classes <= 16, "%d classes", n_classes)
    classes = reader.ints("B", len(rows)) if n_classes > 1 else [0] * len(rows)
    check(set(classes) == set(range(n_classes)), "classes without rows, or rows without a class")
    indices = []
    for of_class in range(n_classes):
        with where("class %d" % of_class):
            coded = reader.take(reader.int("I"))
            indices.append(Reader(chunk_bytes(coded, classes.count(of_class) * grid.cols, 1)))
    reader.end("the chunk")
    return [indices[of_class].ints("b", grid.cols) for of_class in classes]


def bf16(value):
    """The bits of a value that 32 bits hold exactly, rounded to the nearest bf16, ties to even."""
    bits = struct.unpack("<I", struct.pack("<f", value + 0.0))[0]
    return bits + 0x7FFF + (bits >> 16 & 1) >> 16


# ---- 9. Refinements ------------------------------------------------------------------------------

def refined_bytes(chunk, base_chunk, grid, rows):
    """The original's weights of these rows, whose indices `base_chunk` has."""
    reader = Reader(chunk)
    n_classes = reader.int("B")
    check(1 <= n_classes <= 32, "%d classes", n_classes)
    first = [0] + list(reader.ints("B", n_classes - 1))
    check(all(a < b for a, b in zip(first, first[1:])) and first[-1] <= 128, "the classes begin at %r", first)
    class_of = [max(c for c in range(n_classes) if first[c] <= magnitude) for magnitude in range(129)]
    indices = row_indices(base_chunk, grid, rows)
    n_weights = [0] * n_classes
    for of_row in indices:
        for index in of_row:
            n_weights[class_of[abs(index)]] += 1
    elements = []
    for of_class, n in enumerate(n_weights):
        with where("class %d" % of_class):
            coded = reader.take(reader.int("I"))
            check(n > 0 or not coded, "it has no weights, but is not empty")
            elements.append(Reader(chunk_bytes(coded, n, 2) if n > 0 else b""))
    reader.end("the chunk")
    weights = []
    for row, of_row in zip(rows, indices):
        for step, index in zip(grid.col_steps, of_row):
            reference = bf16(grid.row_steps[row] * (step * (index or 1)))
            element = elements[class_of[abs(index)]].int("H")
            weights.append((element ^ reference) & 0x8000 | (element + reference - 0x4080) & 0x7FFF)
    return struct.pack("<%dH" % len(weights), *weights)
