import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { encodeJson, JsonStreamParser, type ParsedInput } from './framing.ts';

const bytes = (text: string): Buffer => Buffer.from(text);

/** Feeds the pieces and the end of the stream; what came out in all. */
function feed(pieces: readonly Uint8Array[], exactIntegers = false): ParsedInput {
  const parser = new JsonStreamParser({ exactIntegers });
  const values: unknown[] = [];
  for (const piece of pieces) values.push(...parser.push(piece).values);
  const last = parser.end();
  return { values: [...values, ...last.values], error: last.error };
}

/** Cuts a buffer at the given places, in whatever order they are. */
function cut(buffer: Uint8Array, places: readonly number[]): readonly Uint8Array[] {
  const inside = places.map((place) => place % (buffer.length + 1)).toSorted((left, right) => left - right);
  const pieces: Uint8Array[] = [];
  let start = 0;
  for (const place of [...inside, buffer.length]) {
    pieces.push(buffer.subarray(start, place));
    start = place;
  }
  return pieces;
}

const nested = (depth: number): Buffer => bytes('['.repeat(depth) + ']'.repeat(depth));

const jsonValue = fc.jsonValue({ maxDepth: 6, stringUnit: 'binary' });
const separator = fc.constantFrom('', ' ', '\n', '\r\n\t ');

describe('JSON values on a stream', () => {
  test('follow one another without separators, pretty-printed or not', () => {
    const first = { method: 'a', params: { x: [1, '}{'] } };
    const stream = `${JSON.stringify(first, null, 2)}${JSON.stringify([first])}"text"true1 null`;
    expect(feed([bytes(stream)])).toEqual({ values: [first, [first], 'text', true, 1, null], error: null });
  });

  test('are the same wherever the stream is cut', () => {
    const streams = fc.array(fc.tuple(jsonValue, separator, fc.boolean()), { minLength: 1, maxLength: 5 });
    fc.assert(
      fc.property(streams, fc.array(fc.nat(), { maxLength: 12 }), (items, places) => {
        // A number needs something behind it, or it goes on in the next value.
        const text = items
          .map(([value, space, isPretty]) => JSON.stringify(value, null, isPretty ? 2 : 0) + (space || '\n'))
          .join('');
        const expected = items.map(([value]) => JSON.parse(JSON.stringify(value)) as unknown);
        expect(feed(cut(bytes(text), places))).toEqual({ values: expected, error: null });
      }),
    );
  });

  test('may be cut within a character', () => {
    const value = { name: 'größe 🦊 \u0000' };
    const whole = bytes(JSON.stringify(value));
    expect(feed([...whole].map((byte) => Uint8Array.of(byte))).values).toEqual([value]);
  });

  test('are kept although the memory of the piece is used again', () => {
    const parser = new JsonStreamParser();
    const memory = bytes('{"a": "one');
    parser.push(memory);
    memory.fill(0x7d);
    expect(parser.push(bytes('"}')).values).toEqual([{ a: 'one' }]);
  });

  test('are partial until their last byte', () => {
    const parser = new JsonStreamParser();
    expect(parser.isPartial).toBe(false);
    parser.push(bytes(' \n{"a":'));
    expect(parser.isPartial).toBe(true);
    parser.push(bytes('1}\n'));
    expect(parser.isPartial).toBe(false);
  });
});

describe('what is not JSON', () => {
  test.each([
    ['hello', 'h'],
    ['{hello', 'h'],
    ['{]', ']'],
    ['[}', '}'],
    ['[1,]', ']'],
    ['{"a" 1}', '1'],
    ['{"a":1,}', '}'],
    ['{,', ','],
    ['[01]', '1'],
    ['[1.e3]', 'e'],
    ['[-]', ']'],
    ['[+1]', '+'],
    ['[1 2]', '2'],
    ['[tru]', ']'],
    ['"\\x"', 'x'],
    ['"\\u12g4"', 'g'],
    ['// comment', '/'],
    ['{} }', '}'],
  ])('%s is refused at %s, at once', (text, wrong) => {
    const parser = new JsonStreamParser();
    const error = parser.push(bytes(text)).error ?? parser.end().error;
    expect(error?.kind).toBe('syntax');
    expect(error?.detail).toContain(`'${wrong}'`);
  });

  test.each([
    ['a control character in a string', Uint8Array.of(0x22, 0x0a)],
    ['a byte order mark', Uint8Array.of(0xef, 0xbb, 0xbf, 0x7b, 0x7d)],
    ['bytes that are not UTF-8', Uint8Array.of(0x22, 0xff, 0x22)],
    ['an overlong encoding', Uint8Array.of(0x22, 0xc0, 0x80, 0x22)],
    ['a binary zero', Uint8Array.of(0)],
  ])('%s is refused', (_what, input) => {
    expect(new JsonStreamParser().push(input).error?.kind).toBe('syntax');
  });

  test('never throws, and is judged as JSON.parse judges it', () => {
    const almostJson = fc
      .tuple(jsonValue, fc.nat(), fc.constantFrom('', ',', '"', '{', '}', '[', ']', ':', '0', '-', 'e', '\\', ' '))
      .map(([value, place, noise]) => {
        const text = JSON.stringify({ value });
        const at = place % text.length;
        return text.slice(0, at) + noise + text.slice(at + 1);
      });
    fc.assert(
      fc.property(fc.oneof(almostJson, fc.string(), fc.string({ unit: 'binary' })), (text) => {
        const input = bytes(text);
        const { values, error } = feed([input]);
        let expected: unknown;
        try {
          expected = JSON.parse(input.toString());
        } catch {
          // Several values in a row are fine here and not for JSON.parse: only one value alone can be compared.
          return;
        }
        expect(error).toBeNull();
        expect(values).toEqual([expected]);
      }),
    );
    fc.assert(
      fc.property(fc.array(fc.uint8Array()), (pieces) => {
        feed(pieces);
      }),
    );
  });

  test('accepts nothing that JSON.parse refuses', () => {
    const noise = fc.string({ unit: fc.constantFrom(...'{}[]:,"\\ue0123-+.tfn ') });
    fc.assert(
      fc.property(noise, (text) => {
        const parser = new JsonStreamParser({ exactIntegers: false });
        const { values, error } = parser.push(bytes(`[${text}]`));
        const isWhole = error === null && !parser.isPartial && values.length === 1;
        expect(isWhole ? values[0] : null).toEqual(isWhole ? JSON.parse(`[${text}]`) : null);
      }),
      { numRuns: 2000 },
    );
  });

  test('ends the stream: nothing behind it is looked at', () => {
    const parser = new JsonStreamParser();
    expect(parser.push(bytes('{}!{}')).values).toEqual([{}]);
    expect(parser.push(bytes('{}'))).toMatchObject({ values: [], error: { kind: 'syntax' } });
    expect(parser.isPartial).toBe(false);
  });
});

describe('limits', () => {
  test('a value longer than the limit is refused before its end has come', () => {
    const parser = new JsonStreamParser({ maxBytes: 100 });
    expect(parser.push(bytes(`"${'x'.repeat(98)}"`)).values).toHaveLength(1);
    expect(parser.push(bytes(`"${'x'.repeat(60)}`)).error).toBeNull();
    expect(parser.push(bytes('x'.repeat(60))).error?.kind).toBe('too_large');
  });

  test('many values that are longer than the limit together are fine', () => {
    const parser = new JsonStreamParser({ maxBytes: 100 });
    expect(parser.push(bytes('{"a":1}'.repeat(1000))).values).toHaveLength(1000);
  });

  test('nesting is limited as in SPDK', () => {
    expect(new JsonStreamParser().push(nested(64)).error).toBeNull();
    expect(new JsonStreamParser().push(nested(65)).error?.kind).toBe('too_deep');
  });

  test('a number of endless digits is refused', () => {
    expect(new JsonStreamParser().push(bytes('9'.repeat(129))).error?.kind).toBe('syntax');
  });
});

describe('large numbers', () => {
  test('integers beyond 2^53 - 1 keep their value', () => {
    const text = '[9007199254740991, 9007199254740993, -9007199254740993, 18446744073709551615, 1.5, 1e300]';
    expect(feed([bytes(text)], true).values).toEqual([
      [9007199254740991, 9007199254740993n, -9007199254740993n, 18446744073709551615n, 1.5, 1e300],
    ]);
  });

  test('are written as they were read', () => {
    fc.assert(
      fc.property(fc.bigInt({ min: -(2n ** 64n), max: 2n ** 64n }), (value) => {
        const read = feed([bytes(`{"id": ${value} }`)], true).values[0];
        expect(encodeJson(read)).toBe(`{"id":${value}}`);
      }),
    );
  });
});

test('answers are ASCII and mean the same', () => {
  expect(encodeJson({ name: 'größe 🦊' })).toBe('{"name":"gr\\u00f6\\u00dfe \\ud83e\\udd8a"}');
  fc.assert(
    fc.property(jsonValue, (value) => {
      const text = encodeJson(value);
      expect(text).toMatch(/^[\x20-\x7f]*$/);
      expect(JSON.parse(text)).toEqual(JSON.parse(JSON.stringify(value)));
    }),
  );
});
