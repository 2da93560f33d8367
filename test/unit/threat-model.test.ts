import { existsSync, readFileSync } from 'node:fs';
import { describe, expect, test } from '@jest/globals';

const root = new URL('../..', import.meta.url);
const model = readFileSync(new URL('docs/explanation/threat-model.md', root), 'utf8');

/** Every `file` › title of the lists. */
const named = [...model.matchAll(/^ {2}- Test: `(test\/[^`]+)` › (.+)$/gm)].flatMap(([, file, title]) =>
  file === undefined || title === undefined ? [] : [{ file, title }],
);

/** From one attack to the next. */
const defences = model
  .slice(model.indexOf('## What is defended'), model.indexOf('## What is not defended'))
  .split(/^- (?=\*\*)/m)
  .slice(1);

describe('docs/explanation/threat-model.md', () => {
  test('names the code and a test for every defence', () => {
    expect(defences.length).toBeGreaterThan(60);
    expect(defences.filter((defence) => !/^ {2}- Code: /m.test(defence))).toEqual([]);
    expect(defences.filter((defence) => !/^ {2}- Test: `test\/[^`]+` › /m.test(defence))).toEqual([]);
  });

  test.each(named)('is right about $file › $title', ({ file, title }) => {
    const source = readFileSync(new URL(file, root), 'utf8');
    const quoted = title.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');
    expect(source).toMatch(new RegExp(`\\(\\s*(['"\`])${quoted}\\1`));
  });

  test.each([...new Set(model.match(/`(?:src|migrations)\/[^`]+`/g))])(
    'names a file that there is: %s',
    (name) => {
      expect(existsSync(new URL(name.slice(1, -1), root))).toBe(true);
    },
  );
});
