import { readFile } from 'node:fs/promises';
import { buffer } from 'node:stream/consumers';
import type { parseArgs } from 'node:util';
import { issuerRegistrationSchema, type IssuerRegistration } from '../auth/registration.schema.ts';
import { parse, UsageError } from './command.ts';

/** What the command is asked to do. */
export type Order =
  | { readonly kind: 'help' }
  | { readonly kind: 'list'; readonly json: boolean }
  | { readonly kind: 'add'; readonly registration: IssuerRegistration }
  | { readonly kind: 'disable' | 'enable' | 'remove'; readonly iss: string };

const OPTIONS = {
  iss: { type: 'string' },
  name: { type: 'string' },
  'jwks-url': { type: 'string' },
  keys: { type: 'string' },
  secret: { type: 'string' },
  audience: { type: 'string', multiple: true },
  tenant: { type: 'string' },
  tenants: { type: 'string' },
  scopes: { type: 'string' },
  algorithms: { type: 'string' },
  claim: { type: 'string', multiple: true },
  'require-at-jwt': { type: 'boolean' },
  json: { type: 'boolean' },
  help: { type: 'boolean', short: 'h' },
} as const;

type Values = ReturnType<typeof parseArgs<{ options: typeof OPTIONS }>>['values'];

/** By which option a member of the registration is given. */
const OPTION_OF: Readonly<Record<string, string>> = {
  jwksUrl: '--jwks-url',
  audiences: '--audience',
  claims: '--claim',
  requireAtJwt: '--require-at-jwt',
};
export const optionOf = (member: string): string => OPTION_OF[member] ?? `--${member}`;

/**
 * Reads the command line, and what it points to.
 *
 * @param input read to its end for `--secret -`
 * @throws UsageError
 */
export async function readArguments(
  args: readonly string[],
  input: AsyncIterable<Uint8Array>,
): Promise<Order> {
  const { values, positionals } = parse({ args: [...args], options: OPTIONS, allowPositionals: true });
  const [command, ...rest] = positionals;
  if (values.help === true || command === undefined) return { kind: 'help' };
  switch (command) {
    case 'list':
      accept(values, ['json'], rest, 0);
      return { kind: 'list', json: values.json ?? false };
    case 'disable':
    case 'enable':
    case 'remove':
      accept(values, [], rest, 1);
      return { kind: command, iss: rest[0] ?? '' };
    case 'add': {
      const { json: _, help: __, ...taken } = OPTIONS;
      accept(values, Object.keys(taken), rest, 0);
      return { kind: 'add', registration: registrationOf(await membersOf(values, input)) };
    }
    default:
      throw new UsageError(
        `There is no command ${command}; there are add, list, disable, enable and remove.`,
      );
  }
}

function accept(values: Values, options: readonly string[], rest: readonly string[], count: number): void {
  const foreign = Object.keys(values).find((name) => !options.includes(name));
  if (foreign !== undefined) throw new UsageError(`--${foreign} does not go with this command.`);
  if (rest.length !== count)
    throw new UsageError(
      count === 0 ? 'This command takes options only.' : 'Give the iss of one issuer, and nothing else.',
    );
}

async function membersOf(values: Values, input: AsyncIterable<Uint8Array>): Promise<Record<string, unknown>> {
  const { keys, secret, audience, tenants, scopes, algorithms, claim } = values;
  const members = {
    iss: values.iss,
    name: values.name,
    jwksUrl: values['jwks-url'],
    keys: keys === undefined ? undefined : keysOf(await fileOf('keys', keys)),
    secret: secret === undefined ? undefined : await secretOf(secret, input),
    algorithms: listOf(algorithms),
    audiences: audience,
    tenant: values.tenant,
    tenants: listOf(tenants),
    claims: claim === undefined ? undefined : claimsOf(claim),
    scopes: listOf(scopes),
    requireAtJwt: values['require-at-jwt'],
  };
  return Object.fromEntries(Object.entries(members).filter(([, value]) => value !== undefined));
}

/** The schema of the API decides; its faults are told by the options that they come from. */
function registrationOf(members: Record<string, unknown>): IssuerRegistration {
  const parsed = issuerRegistrationSchema.safeParse(members, {
    error: ({ input }) => (input === undefined ? 'is required' : undefined),
  });
  if (parsed.success) return parsed.data;
  const lines = parsed.error.issues.map(({ path: [member, ...within], message, ...issue }) => {
    const unknown = issue.code === 'unrecognized_keys' ? issue.keys.join(', ') : '';
    return `  - ${[optionOf(String(member)), ...within].join(' ')}: ${unknown === '' ? message : `does not take ${unknown}`}`;
  });
  throw new UsageError(`The issuer cannot be registered like this:\n${lines.join('\n')}`);
}

const listOf = (text: string | undefined): string[] | undefined =>
  text
    ?.split(',')
    .map((item) => item.trim())
    .filter((item) => item !== '');

function claimsOf(pairs: readonly string[]): Record<string, string | string[]> {
  const claims: Record<string, string | string[]> = {};
  const scopes: string[] = [];
  for (const pair of pairs) {
    const [, what, claim] = /^([a-z]+)=(.+)$/s.exec(pair) ?? [];
    if (what === undefined || claim === undefined)
      throw new UsageError(
        '--claim takes what it is about and where it is: tenant=org_id, scopes=/realm_access/roles.',
      );
    if (what === 'scopes') scopes.push(claim);
    else if (what in claims) throw new UsageError(`--claim ${what}= was given twice.`);
    else claims[what] = claim;
  }
  return scopes.length === 0 ? claims : { ...claims, scopes };
}

/** Never from the command line itself, which every user of the machine can read; and so never repeated here. */
async function secretOf(source: string, input: AsyncIterable<Uint8Array>): Promise<string> {
  const text = source === '-' ? (await buffer(input)).toString() : await fileOf('secret', source);
  return text.replace(/\r?\n$/, '');
}

async function fileOf(option: 'keys' | 'secret', file: string): Promise<string> {
  try {
    return await readFile(file, 'utf8');
  } catch {
    const or = option === 'secret' ? ', or - for standard input' : '';
    throw new UsageError(`--${option} takes the name of a file that can be read${or}.`);
  }
}

function keysOf(text: string): unknown {
  try {
    const keys: unknown = JSON.parse(text);
    return keys;
  } catch {
    throw new UsageError('--keys takes a file that holds a JWK Set in JSON (RFC 7517).');
  }
}
