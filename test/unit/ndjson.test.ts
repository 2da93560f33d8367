import { describe, expect, test } from '@jest/globals';
import { streamLines, wantsLines } from '../../src/http/pages.ts';
import { eventually } from '../support/eventually.ts';

describe('an export', () => {
  test('asks for no further page when its reader goes away, and lets the pages end', async () => {
    const asked: number[] = [];
    let ended = false;
    async function* pages(): AsyncGenerator<string> {
      try {
        for (let n = 0; ; n += 1) {
          asked.push(n);
          yield `${n}\n`;
        }
      } finally {
        ended = true;
      }
    }
    const stream = streamLines(pages());
    await new Promise((resolve) => stream.once('readable', resolve));
    stream.destroy();
    await eventually(() => expect(ended).toBe(true));
    expect(asked.length).toBeLessThan(5);
  });

  test('goes on after an empty page', async () => {
    async function* pages(): AsyncGenerator<string> {
      yield* ['1\n', '', '', '2\n3\n', ''];
    }
    expect(Buffer.concat(await streamLines(pages()).toArray()).toString()).toBe('1\n2\n3\n');
  });

  test.each([
    ['application/x-ndjson', true],
    ['application/json, application/x-ndjson;q=0.5', true],
    ['APPLICATION/X-NDJSON ; charset=utf-8', true],
    ['application/x-ndjson;q=0', false],
    ['application/x-ndjson; q=0.000, */*', false],
    ['*/*', false],
    ['application/json', false],
    [undefined, false],
  ])('is what Accept: %s asks for: %s', (accept, wanted) => {
    expect(wantsLines(accept)).toBe(wanted);
  });
});
