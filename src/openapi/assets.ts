import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';

export interface Asset {
  readonly mediaType: string;
  readonly content: Buffer;
  /** A strong validator (RFC 9110 §8.8.3). */
  readonly etag: string;
}

const PAGE_CSS = `:root {
  color-scheme: light dark;
  --text: #1c2430; --soft: #566173; --line: #dde2ea; --ground: #fff; --code: #f1f4f8; --link: #0b5cad;
}
@media (prefers-color-scheme: dark) {
  :root { --text: #e4e8ee; --soft: #9aa6b6; --line: #333d4b; --ground: #1c2022; --code: #2a3036; --link: #7db7f5; }
}
body { margin: 0; background: var(--ground); color: var(--text); font: 16px/1.55 system-ui, sans-serif; }
header { border-bottom: 1px solid var(--line); }
header nav, main.text { max-width: 46rem; margin: 0 auto; padding: .8rem 1.2rem; }
header nav.wide { max-width: 1460px; padding: .8rem 20px; box-sizing: border-box; }
header nav { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; align-items: baseline; }
header strong { margin-right: auto; }
a { color: var(--link); }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 1.2rem 0 .6rem; }
h2 { font-size: 1.15rem; margin: 2.4rem 0 0; color: var(--soft); font-weight: 600; }
article { border-top: 1px solid var(--line); margin-top: 1rem; padding-top: 1rem; scroll-margin-top: .5rem; }
article:target { border-left: 4px solid var(--link); padding-left: .8rem; }
article h3 { font-size: 1rem; margin: 0; overflow-wrap: anywhere; }
article h3 a { text-decoration: none; }
article p { margin: .3rem 0 0; }
article p.title { color: var(--soft); }
.text code, .text pre { font: .9em/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; background: var(--code); border-radius: 4px; }
.text code { padding: .1em .3em; }
.text pre { padding: .8rem 1rem; white-space: pre-wrap; overflow-wrap: anywhere; }
.text pre code { padding: 0; font-size: 1em; }
html.dark-mode .swagger-ui, .swagger-ui { background: none; }
.swagger-ui .scheme-container { box-shadow: none; background: none; }
html.dark-mode .swagger-ui .renderedMarkdown table tbody tr td { color: var(--text); }
@media (max-width: 40rem) {
  .swagger-ui .wrapper { padding: 0 12px; }
  .swagger-ui .opblock .opblock-summary-description { flex-basis: 100%; text-align: left; }
}
`;

/** Swagger UI without its validator badge, which would send the document elsewhere. */
const REFERENCE_JS = `const dark = matchMedia('(prefers-color-scheme: dark)');
const follow = () => document.documentElement.classList.toggle('dark-mode', dark.matches);
dark.addEventListener('change', follow);
follow();
SwaggerUIBundle({
  url: '/openapi.json',
  dom_id: '#reference',
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  displayRequestDuration: true,
  validatorUrl: null,
});
`;

const asset = (mediaType: string, content: Buffer): Asset => ({
  mediaType: `${mediaType}; charset=utf-8`,
  content,
  etag: `"${createHash('sha256').update(content).digest('base64url').slice(0, 22)}"`,
});

/** The files that the pages load, by name. Read once, at start: a file that is missing is not found out by a reader. */
export function loadAssets(): ReadonlyMap<string, Asset> {
  const { resolve } = createRequire(import.meta.url);
  const swagger = (name: string) => readFileSync(resolve(`@fastify/swagger-ui/static/${name}`));
  return new Map([
    ['page.css', asset('text/css', Buffer.from(PAGE_CSS))],
    ['reference.js', asset('text/javascript', Buffer.from(REFERENCE_JS))],
    ['swagger-ui.css', asset('text/css', swagger('swagger-ui.css'))],
    ['swagger-ui-bundle.js', asset('text/javascript', swagger('swagger-ui-bundle.js'))],
  ]);
}
