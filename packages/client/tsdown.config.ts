import { defineConfig } from 'tsdown';

const inBrowsers = { platform: 'browser', target: 'es2022', tsconfig: 'tsconfig.json' } as const;

export default defineConfig([
  {
    ...inBrowsers,
    entry: { index: 'src/index.ts', publisher: 'src/publisher.ts', testing: 'src/testing.ts' },
    format: 'esm',
    dts: true,
    sourcemap: true,
  },
  {
    // One file for `<script src>`: with all that it needs, as `Tidings`.
    ...inBrowsers,
    entry: { tidings: 'src/index.ts' },
    format: 'iife',
    globalName: 'Tidings',
    minify: true,
    dts: false,
    deps: { alwaysBundle: [/./] },
    clean: false,
  },
]);
