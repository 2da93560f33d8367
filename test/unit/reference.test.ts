import { readFile } from 'node:fs/promises';
import { expect, test } from '@jest/globals';
import { readConfig, settingsSchema } from '../../src/core/config.ts';
import { referenceFiles, SETTINGS } from '../../scripts/reference.ts';

const read = (path: string) => readFile(new URL(`../../${path}`, import.meta.url), 'utf8');

test('what is written from the code is as `npm run docs:reference` would write it', async () => {
  for (const [path, text] of await referenceFiles())
    expect({ path, text: await read(path) }).toEqual({ path, text });
});

test('every setting is in a group, and has a meaning that is a sentence', () => {
  const settings = [...SETTINGS.values()].flat();
  expect(settings.map(({ name }) => name)).toEqual(Object.keys(settingsSchema.shape));
  for (const { name, meaning } of settings)
    expect({ name, meaning }).toEqual({ name, meaning: expect.stringMatching(/^.+\.$/) });
});

test('.env.example with every line taken in gives the defaults', async () => {
  const lines = (await read('.env.example')).matchAll(/^#([A-Z0-9_]+)=(.*)$/gm);
  const environment = Object.fromEntries([...lines].map(([, name, value]) => [name, value]));
  expect(Object.keys(environment)).toEqual(Object.keys(settingsSchema.shape));
  expect(readConfig(environment)).toEqual(readConfig({}));
});
