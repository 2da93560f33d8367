import { readFileSync, writeFileSync } from 'node:fs';
import type { z } from 'zod';
import { settingsSchema } from '../src/core/config.ts';

/*
 * `node scripts/settings.ts` writes .env.example and the tables of docs/operations.md from the schema of the
 * settings. A test compares them, so a new setting cannot be forgotten.
 */
const ENV_EXAMPLE = new URL('../.env.example', import.meta.url);
const OPERATIONS = new URL('../docs/operations.md', import.meta.url);

const BEGIN = '<!-- settings: written by `node scripts/settings.ts` -->';
const END = '<!-- end of settings -->';

/** The first setting of each group; the order is that of the schema. */
const GROUPS = new Map([
  ['PORT', 'Service'],
  ['DATABASE_URL', 'Database'],
  ['JWT_SECRET', 'Tokens'],
  ['NOTIFICATIONS_PER_SECOND', 'Publishing'],
  ['MAX_CONNECTIONS', 'Streams'],
  ['LEDGER_FLUSH_MS', 'Ledger'],
  ['RETENTION_DAYS', 'Retention and maintenance'],
  ['SHUTDOWN_DEADLINE_SECONDS', 'Shutdown'],
]);

interface Setting {
  readonly name: string;
  readonly group: string;
  /** As it would be written in the environment; empty if there is none, or if it depends on the machine. */
  readonly fallback: string;
  readonly meaning: string;
}

export function settings(): Setting[] {
  let group = '';
  return Object.entries(settingsSchema.shape).map(([name, schema]) => {
    group = GROUPS.get(name) ?? group;
    return { name, group, fallback: fallbackOf(name, schema), meaning: schema.description ?? '' };
  });
}

function fallbackOf(name: string, schema: z.ZodType): string {
  // The host's own.
  if (name === 'NODE_NAME') return '';
  const { data } = schema.safeParse(undefined);
  if (Array.isArray(data)) return data.join(',');
  return typeof data === 'string' || typeof data === 'number' || typeof data === 'boolean'
    ? String(data)
    : '';
}

const HEADER = `# Every setting with its default. None is needed to try the service; an empty value counts as unset.
# As .env in the project's folder this file is read by npm start, by every command and by docker compose; what the
# environment has goes before it. A value with # or spaces stands in quotes. docker compose publishes PORT, and says by
# itself where the service listens and has its database: HOST, METRICS_*, DATABASE_*URL and DATA_DIR do not count there.`;

export function envExample(): string {
  const groups = [...Map.groupBy(settings(), ({ group }) => group)].map(([group, members]) => {
    const lines = members.map(({ name, fallback, meaning }) => `# ${meaning}\n#${name}=${fallback}`);
    return `# --- ${group} ---\n\n${lines.join('\n\n')}\n`;
  });
  return `${HEADER}\n\n${groups.join('\n')}`;
}

/** The settings as Markdown, padded as prettier does it. */
export function settingsTables(): string {
  return [...Map.groupBy(settings(), ({ group }) => group)]
    .map(([group, members]) => {
      const rows = members.map(({ name, fallback, meaning }) => [
        `\`${name}\``,
        fallback === '' ? '' : `\`${fallback}\``,
        meaning.replaceAll('|', '\\|'),
      ]);
      return `### ${group}\n\n${table([['setting', 'default', 'meaning'], ...rows])}`;
    })
    .join('\n\n');
}

function table([header = [], ...rows]: string[][]): string {
  const widths = header.map((_, column) =>
    Math.max(...[header, ...rows].map((row) => row[column]?.length ?? 0)),
  );
  const line = (row: string[]) =>
    `| ${row.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join(' | ')} |`;
  const rule = `| ${widths.map((width) => '-'.repeat(width)).join(' | ')} |`;
  return [line(header), rule, ...rows.map(line)].join('\n');
}

/** The document with its tables replaced. */
export function withTables(document: string): string {
  const begin = document.indexOf(BEGIN);
  const end = document.indexOf(END);
  if (begin === -1 || end < begin)
    throw new Error(`docs/operations.md has lost its markers ${BEGIN} and ${END}.`);
  return `${document.slice(0, begin)}${BEGIN}\n\n${settingsTables()}\n\n${document.slice(end)}`;
}

if (import.meta.main) {
  writeFileSync(ENV_EXAMPLE, envExample());
  writeFileSync(OPERATIONS, withTables(readFileSync(OPERATIONS, 'utf8')));
}
