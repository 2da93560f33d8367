import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { compact, elements, inTurns, members, walkCompact } from '../../src/http/raw-json.ts';
import { TimeSlicer } from '../../src/concurrency/pacing.ts';

/** White space as JSON allows it between tokens. */
const space = fc.stringMatching(/^[ \t\r\n]{0,3}$/);

/** JSON text of a value, with white space of all kinds between its tokens and its strings escaped in either way. */
const spaced: fc.Arbitrary<string> = fc
  .tuple(fc.jsonValue({ maxDepth: 6 }), fc.array(space, { minLength: 1, maxLength: 7 }), fc.boolean())
  .map(([value, spaces, ascii]) => {
    let at = 0;
    const gap = () => spaces[at++ % spaces.length] ?? '';
    const string = (text: string) => {
      const json = JSON.stringify(text);
      return ascii
        ? json.replaceAll(/[^\x20-\x7e]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`)
        : json;
    };
    const write = (item: unknown): string => {
      if (Array.isArray(item)) return `${gap()}[${item.map(write).join(',')}${gap()}]${gap()}`;
      if (typeof item === 'object' && item !== null) {
        const inner = Object.entries(item).map(
          ([name, part]) => `${gap()}${string(name)}${gap()}:${write(part)}`,
        );
        return `${gap()}{${inner.join(',')}${gap()}}${gap()}`;
      }
      return `${gap()}${typeof item === 'string' ? string(item) : JSON.stringify(item)}${gap()}`;
    };
    return write(value);
  });

/** How deep JSON.parse finds a value nested. */
const depthOf = (value: unknown): number => {
  if (typeof value !== 'object' || value === null) return 0;
  return 1 + Math.max(0, ...Object.values(value).map(depthOf));
};

const outsideStrings = (text: string) => text.replaceAll(/"(?:[^"\\]|\\.)*"/g, '""');

describe('compact', () => {
  test('keeps the value and leaves no white space between tokens', () => {
    fc.assert(
      fc.property(spaced, (text) => {
        const { text: short, size, depth } = compact(text);
        expect(JSON.parse(short)).toEqual(JSON.parse(text));
        expect(outsideStrings(short)).not.toMatch(/\s/);
        expect(short).not.toMatch(/[\r\n]/);
        expect(size).toBe(Buffer.byteLength(short));
        expect(depth).toBe(depthOf(JSON.parse(text)));
      }),
      { numRuns: 500 },
    );
  });

  test('text without white space comes back as it was', () => {
    fc.assert(
      fc.property(fc.json(), (text) => {
        expect(compact(compact(text).text).text).toBe(compact(text).text);
      }),
    );
  });

  test.each([
    ['digits beyond a double', ' 9223372036854775808 ', '9223372036854775808'],
    ['trailing zeros and exponents', '[1.0, 1E+2, -0.0, 1e400]', '[1.0,1E+2,-0.0,1e400]'],
    ['escapes', '"\\u00e9 \\/ \\" \\\\"', '"\\u00e9 \\/ \\" \\\\"'],
    ['white space in strings', '[ "a b\\n" , " " ]', '["a b\\n"," "]'],
    ['order and doubles', '{ "b": 1, "a": 2, "b": 3 }', '{"b":1,"a":2,"b":3}'],
    ['a string that ends in a backslash', '[ "\\\\" , "x" ]', '["\\\\","x"]'],
  ])('%s stay as they are', (_, text, expected) => {
    expect(compact(text).text).toBe(expected);
  });

  test('of what has more bytes than it may have nothing is kept, and all of it is counted', async () => {
    const text = ` [ "é", ${'1 '.repeat(100_000)}[ ] ]`;
    const compacted = async (most: number) =>
      await inTurns(walkCompact(text, { start: 0, end: text.length }, most), new TimeSlicer());
    const whole = compact(text);
    expect(whole).toEqual({ text: `["é",${'1'.repeat(100_000)}[]]`, size: 100_009, depth: 2 });
    expect(await compacted(whole.size)).toEqual(whole);
    for (const most of [4, 90_000, whole.size - 1])
      expect(await compacted(most)).toEqual({ ...whole, text: '' });
  });

  test('a hundred thousand levels are counted without recursion', () => {
    const levels = 100_000;
    expect(compact(`${'[ '.repeat(levels)}${']'.repeat(levels)}`).depth).toBe(levels);
  });
});

describe('members and elements', () => {
  test('the members of an object are those that JSON.parse finds, each with its own text', () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.string(), spaced), { maxLength: 6 }), space, (pairs, gap) => {
        const text = `${gap}{${pairs.map(([name, value]) => `${gap}${JSON.stringify(name)}${gap}:${gap}${value}`).join(',')}${gap}}${gap}`;
        const found = members(text).map(({ name, value }) => [
          name,
          JSON.parse(text.slice(value.start, value.end)) as unknown,
        ]);
        expect(found).toEqual(pairs.map(([name, value]) => [name, JSON.parse(value)]));
      }),
    );
  });

  test('the elements of an array are those that JSON.parse finds', () => {
    fc.assert(
      fc.property(fc.array(spaced, { maxLength: 6 }), space, (values, gap) => {
        const text = `${gap}[${gap}${values.join(',')}${gap}]${gap}`;
        const found = elements(text).map(({ start, end }) => JSON.parse(text.slice(start, end)) as unknown);
        expect(found).toEqual(values.map((value) => JSON.parse(value) as unknown));
      }),
    );
  });

  test('a name in escapes is the same name', () => {
    expect(members('{"\\u0064ata":1,"data":2}').map(({ name }) => name)).toEqual(['data', 'data']);
  });

  test('they can begin anywhere in a text', () => {
    const text = '{"list": [ {"a": 1}, 2 ]}';
    const [list] = members(text);
    const items = elements(text, list?.value.start);
    expect(items.map(({ start, end }) => text.slice(start, end))).toEqual(['{"a": 1}', '2']);
    expect(members(text, items[0]?.start).map(({ name }) => name)).toEqual(['a']);
  });
});
