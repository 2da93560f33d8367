import { readFile } from 'node:fs/promises';
import { describe, expect, test } from '@jest/globals';
import { readConfig, settingsSchema } from '../../src/core/config.ts';
import { envExample, settings, withTables } from '../../scripts/settings.ts';

const read = (path: string) => readFile(new URL(`../../${path}`, import.meta.url), 'utf8');
const names = Object.keys(settingsSchema.shape);

describe('the settings', () => {
  test('each have a meaning and a group', () => {
    for (const { name, group, meaning } of settings()) {
      expect({ name, group, meaning }).toEqual({
        name,
        group: expect.stringMatching(/\w/),
        meaning: expect.stringMatching(/^.+\.$/),
      });
    }
  });

  test('stand in .env.example, all of them and no others, as the schema has them', async () => {
    const example = await read('.env.example');
    expect([...example.matchAll(/^#([A-Z0-9_]+)=/gm)].map(([, name]) => name)).toEqual(names);
    expect(example).toBe(envExample());
  });

  test('stand in docs/operations.md, as the schema has them', async () => {
    const document = await read('docs/operations.md');
    expect([...document.matchAll(/^\| `([A-Z0-9_]+)`/gm)].map(([, name]) => name)).toEqual(names);
    expect(document).toBe(withTables(document));
  });

  test('are the defaults when .env.example is used with every line taken in', async () => {
    const lines = (await read('.env.example')).matchAll(/^#([A-Z0-9_]+)=(.*)$/gm);
    const environment = Object.fromEntries([...lines].map(([, name, value]) => [name, value]));
    expect(readConfig(environment)).toEqual(readConfig({}));
  });
});
