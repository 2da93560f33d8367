import { existsSync, readFileSync } from 'node:fs';
import { describe, expect, test } from '@jest/globals';

const root = new URL('../../', import.meta.url);
const model = readFileSync(new URL('docs/explanation/threat-model.md', root), 'utf8');
const rows = model.split('\n').filter((line) => line.startsWith('| '));

/** Every `file` › title of the tables. */
const named = rows.flatMap((row) =>
  [...row.matchAll(/`(test\/[^`]+)` › (.+?)(?=; `test\/| +\|)/g)].flatMap(([, file, title]) =>
    file === undefined || title === undefined ? [] : [{ file, title: title.trim() }],
  ),
);

describe('docs/explanation/threat-model.md', () => {
  test('names a test for every defence', () => {
    const defences = model.slice(
      model.indexOf('## What is defended'),
      model.indexOf('## What is not defended'),
    );
    const lines = defences.split('\n').filter((line) => /^\| (?!attack|---)/.test(line));
    expect(lines.length).toBeGreaterThan(30);
    expect(lines.filter((line) => !line.includes('` › '))).toEqual([]);
  });

  test.each(named)('is right about $file › $title', ({ file, title }) => {
    const source = readFileSync(new URL(file, root), 'utf8');
    const quoted = title.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');
    expect(source).toMatch(new RegExp(`\\(\\s*(['"\`])${quoted}\\1`));
  });

  test.each([...new Set(rows.flatMap((row) => row.match(/`(?:src|migrations)\/[^`]+`/g) ?? []))])(
    'names a file that there is: %s',
    (name) => {
      expect(existsSync(new URL(name.slice(1, -1), root))).toBe(true);
    },
  );
});
