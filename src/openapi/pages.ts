import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { ERRORS } from '../core/errors.ts';

interface Page {
  readonly title: string;
  readonly head?: string;
  readonly navigation?: string;
  readonly main: string;
}

/** Everything from this service, nothing inline and no frame around it. */
export const CONTENT_SECURITY_POLICY = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "img-src 'self' data:",
  "connect-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join('; ');

const STATUS_NAMES: Readonly<Record<number, string>> = {
  400: 'Bad request',
  401: 'Unauthorized',
  403: 'Forbidden',
  404: 'Not found',
  405: 'Method not allowed',
  406: 'Not acceptable',
  413: 'Content too large',
  415: 'Unsupported media type',
  422: 'Unprocessable content',
  429: 'Too many requests',
  500: 'Internal server error',
  503: 'Service unavailable',
};

/** The API reference: Swagger UI on /openapi.json. */
export function referencePage(): string {
  return html({
    title: 'Tidings API',
    head: '<link rel="stylesheet" href="/docs/assets/swagger-ui.css">',
    navigation: 'wide',
    main: `<main id="reference"><noscript><p>This page needs JavaScript; <a href="/openapi.json">the document</a> does not.</p></noscript></main>
<script src="/docs/assets/swagger-ui-bundle.js"></script>
<script src="/docs/assets/reference.js"></script>`,
  });
}

/** Every error of the table, with an anchor for its code: the `type` of a problem leads here. */
export function errorsPage(): string {
  const byStatus = Map.groupBy(Object.entries(ERRORS), ([, { status }]) => status);
  const groups = [...byStatus]
    .toSorted(([a], [b]) => a - b)
    .map(([status, errors]) => {
      const articles = errors.map(([code, { title, advice }]) => article(code, title, advice));
      return `<h2>${status} ${STATUS_NAMES[status] ?? ''}</h2>\n${articles.join('\n')}`;
    });
  return html({
    title: 'Tidings errors',
    main: `<main class="text">
<h1>Errors</h1>
<p>Every error is <code>application/problem+json</code> (RFC 9457). Programs rely on <code>code</code> and
<code>status</code>; <code>detail</code> says what was wrong this time, and <code>errors</code> where.</p>
<pre><code>{
  "type": "/docs/errors#validation_failed",
  "title": "The request is not valid",
  "status": 400,
  "detail": "The body is not valid.",
  "code": "validation_failed",
  "errors": [{ "pointer": "/to/user", "detail": "a user has 1 to 256 characters" }]
}</code></pre>
${groups.join('\n')}
</main>`,
  });
}

function article(code: string, title: string, advice: string): string {
  return `<article id="${code}">
<h3><a href="#${code}"><code>${code}</code></a></h3>
<p class="title">${escape(title)}.</p>
<p>${escape(advice).replaceAll(/`([^`]+)`/g, '<code>$1</code>')}</p>
</article>`;
}

function html({ title, head = '', navigation = '', main }: Page): string {
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>${title}</title>
<link rel="icon" href="data:,">
${head}
<link rel="stylesheet" href="/docs/assets/page.css">
</head>
<body>
<header><nav class="${navigation}"><strong>Tidings</strong>
<a href="/docs">API</a> <a href="/docs/errors">Errors</a> <a href="/openapi.json">OpenAPI</a></nav></header>
${main}
</body>
</html>
`;
}

const ENTITIES: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&#39;',
};

const escape = (text: string): string =>
  text.replaceAll(/[&<>"']/g, (character) => ENTITIES[character] ?? '');

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
