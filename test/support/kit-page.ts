import { readdirSync, readFileSync } from 'node:fs';
import { transformSync } from '@swc/core';
import type { Route } from './same-origin-proxy.ts';

const KIT = new URL('../../packages/client/src/', import.meta.url);
const PARSER = new URL('.', import.meta.resolve('eventsource-parser'));

const script =
  (code: string): Route =>
  () => ({ type: 'text/javascript', body: code });

/** The client kit, a module for each of its files, and what it imports. */
const MODULES: Readonly<Record<string, Route>> = {
  ...Object.fromEntries(
    readdirSync(PARSER)
      .filter((file) => file.endsWith('.js'))
      .map((file) => [`/eventsource-parser/${file}`, script(readFileSync(new URL(file, PARSER), 'utf8'))]),
  ),
  ...Object.fromEntries(
    readdirSync(KIT)
      .filter((file) => file.endsWith('.ts'))
      .map((file) => {
        const { code } = transformSync(readFileSync(new URL(file, KIT), 'utf8'), {
          jsc: { target: 'es2022', parser: { syntax: 'typescript' } },
          configFile: false,
          swcrc: false,
        });
        return [`/kit/${file}`, script(code)];
      }),
  ),
};

/** A page at `/` whose script is `code`, with `createTidings` and the rest of the kit as `kit`. */
export const kitPage = (code: string): Readonly<Record<string, Route>> => ({
  ...MODULES,
  '/': () => ({
    type: 'text/html',
    body: `<!doctype html><meta charset="utf-8"><title>Tidings</title>
<script type="importmap">{"imports":{"eventsource-parser":"/eventsource-parser/index.js"}}</script>
<script type="module">import * as kit from '/kit/index.ts';
${code}</script>`,
  }),
});
