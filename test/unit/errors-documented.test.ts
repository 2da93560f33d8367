import { readFileSync } from 'node:fs';
import { expect, test } from '@jest/globals';
import { ERRORS } from '../../src/core/errors.ts';

test('docs/errors.md has a row for every error, with the texts that callers get', () => {
  const page = readFileSync(new URL('../../docs/errors.md', import.meta.url), 'utf8');
  const rows = page.split('\n').filter((line) => line.startsWith('| `'));
  const cells = rows.map((row) =>
    row
      .split('|')
      .slice(1, -1)
      .map((cell) => cell.trim()),
  );
  expect(cells).toEqual(
    Object.entries(ERRORS).map(([code, { status, title, advice }]) => [
      `\`${code}\``,
      String(status),
      title,
      advice,
    ]),
  );
});
