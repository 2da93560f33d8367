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
