import { mkdirSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { format, resolveConfig } from 'prettier';
import { z } from 'zod';
import { SETTING_GROUPS } from '../src/core/config.ts';
import { ERRORS } from '../src/core/errors.ts';
import { Metrics } from '../src/telemetry/metrics.ts';
import { scalePage } from '../test/bench/scale/page.ts';
import { stormPicture } from '../test/bench/scale/picture.ts';

/*
 * `npm run docs:reference` writes what is told twice, to the program and to people: .env.example, the pages of docs/reference
 * on settings, errors and metrics, and the page whose numbers are computed. A test compares them, so nothing new can be
 * forgotten.
 */
const PROJECT = new URL('../', import.meta.url);

const WRITTEN = '<!-- Written by `npm run docs:reference`. -->';

/** What stands in each file, by its path in the project. */
export async function referenceFiles(): Promise<ReadonlyMap<string, string>> {
  return new Map([
    ['.env.example', envExample()],
    ['docs/reference/settings.md', await page(settingsPage())],
    ['docs/reference/errors.md', await page(errorsPage())],
    ['docs/reference/metrics.md', await page(await metricsPage())],
    ['docs/explanation/scale.md', await page(scalePage())],
    ['docs/performance/storm.svg', stormPicture()],
  ]);
}

/** In the form that `prettier --check` wants. */
async function page(markdown: string): Promise<string> {
  const options = await resolveConfig(fileURLToPath(new URL('package.json', PROJECT)));
  return await format(markdown, { ...options, parser: 'markdown' });
}

interface Setting {
  readonly name: string;
  readonly meaning: string;
  /** As it would be written in the environment; empty if there is none, or if it depends on the machine. */
  readonly fallback: string;
  /** Which values it takes, in words; empty if any. */
  readonly values: string;
}

export const SETTINGS: ReadonlyMap<string, readonly Setting[]> = new Map(
  Object.entries(SETTING_GROUPS).map(([group, members]) => [
    group,
    Object.entries(members).map(([name, schema]) => ({
      name,
      meaning: schema.description ?? '',
      fallback: fallbackOf(name, schema),
      values: valuesOf(schema),
    })),
  ]),
);

function fallbackOf(name: string, schema: z.ZodType): string {
  // The host's own.
  if (name === 'NODE_NAME') return '';
  const { data } = schema.safeParse(undefined);
  if (Array.isArray(data)) return data.join(',');
  return typeof data === 'string' || typeof data === 'number' || typeof data === 'boolean'
    ? String(data)
    : '';
}

function valuesOf(schema: z.ZodType): string {
  const { minimum, maximum, enum: names } = z.toJSONSchema(schema, { io: 'input' });
  if (names !== undefined) return names.map((name) => code(String(name))).join(', ');
  return minimum === undefined || maximum === undefined
    ? ''
    : [minimum, maximum].map((bound) => bound.toLocaleString('en')).join(' to ');
}

const HEADER = `# Every setting with its default. None is needed to try the service; an empty value counts as unset.
# As .env in the project's folder this file is read by npm start, by every command and by docker compose; what the
# environment has goes before it. A value with # or spaces stands in quotes. docker compose publishes PORT, and says by
# itself where the service listens and has its database: HOST, METRICS_*, DATABASE_*URL and DATA_DIR do not count there.`;

function envExample(): string {
  const groups = [...SETTINGS].map(([group, members]) => {
    const lines = members.map(({ name, fallback, meaning }) => `# ${meaning}\n#${name}=${fallback}`);
    return `# --- ${group} ---\n\n${lines.join('\n\n')}\n`;
  });
  return `${HEADER}\n\n${groups.join('\n')}`;
}

function settingsPage(): string {
  const groups = [...SETTINGS].map(([group, members]) => {
    const rows = members.map(({ name, fallback, values, meaning }) => [
      code(name),
      fallback === '' ? '' : code(fallback.replaceAll(',', ', ')),
      values,
      meaning,
    ]);
    return `## ${group}\n\n${table(['setting', 'default', 'values', 'meaning'], rows)}`;
  });
  return `# Settings

${WRITTEN}

Settings are read once, at the start, from the environment and, where it has none, from the file \`.env\`; an empty value counts as unset. One that is wrong stops the start, with a message that names all that are wrong. None is needed to try the service. Numbers that nobody has to choose are no settings: they stand in \`src/core/tuning.ts\`, each with its reason.

${groups.join('\n\n')}
`;
}

function errorsPage(): string {
  const rows = Object.entries(ERRORS).map(([name, { status, title, advice }]) => [
    code(name),
    String(status),
    title,
    advice,
  ]);
  return `# Errors

${WRITTEN}

Every error is a problem document (RFC 9457, \`application/problem+json\`) with \`type\`, \`title\`, \`status\`, \`detail\` and \`code\`. Rely on \`code\`; texts may change. Where a request is not valid, \`errors\` lists what is wrong as \`{pointer, detail}\`, with JSON pointers (RFC 6901); a query parameter or a header is \`/\` and its name. A 401 carries \`WWW-Authenticate: Bearer\` (RFC 6750), a 429 and a 503 carry \`Retry-After\`. A running service shows this table at \`/docs/errors\`, where \`type\` points.

${table(['code', 'status', 'title', 'what to do'], rows)}
`;
}

async function metricsPage(): Promise<string> {
  const { registry } = new Metrics();
  const values = new Map((await registry.getMetricsAsJSON()).map((metric) => [metric.name, metric.values]));
  const rows = registry
    .getMetricsAsArray()
    .filter(({ name }) => name.startsWith('tidings_'))
    .map((metric) => {
      const labels = labelsOf(metric).map((label) => {
        // The values that a counter can have are there from the start; others come with what happens.
        const known =
          String(metric.type) === 'counter'
            ? (values.get(metric.name) ?? []).map(({ labels: each }) => code(String(each[label])))
            : [];
        return known.length === 0 ? code(label) : `${code(label)}: ${known.join(', ')}`;
      });
      return [code(metric.name), String(metric.type), labels.join('; '), metric.help];
    });
  return `# Metrics

${WRITTEN}

\`GET /metrics\` answers in the text format of Prometheus, at an address of its own if \`METRICS_PORT\` is set. Every number is of one node, and none names a tenant. Of several \`WORKERS\` any one answers for all, and each series has the name of its node as \`worker\`. Beside these there are the usual metrics of a Node process (\`process_*\`, \`nodejs_*\`). A histogram has \`_bucket\`, \`_sum\` and \`_count\`.

${table(['name', 'type', 'labels', 'meaning'], rows)}
`;
}

function labelsOf(metric: object): string[] {
  return 'labelNames' in metric && Array.isArray(metric.labelNames) ? metric.labelNames.map(String) : [];
}

function code(text: string): string {
  return `\`${text}\``;
}

function table(header: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]) =>
    `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`;
  return [line(header), line(header.map(() => '---')), ...rows.map(line)].join('\n');
}

if (import.meta.main) {
  mkdirSync(new URL('docs/reference/', PROJECT), { recursive: true });
  for (const [path, text] of await referenceFiles()) writeFileSync(new URL(path, PROJECT), text);
}
