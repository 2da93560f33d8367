import { randomBytes, randomUUID } from 'node:crypto';
import type { OperationKey, ParameterKey } from '../document.ts';
import type { Carried } from './request.ts';
import { cursorOf, type Stage, type Tenant } from './stage.ts';

/**
 * One way to name what belongs to somebody else.
 *
 * Every id, cursor and token is taken from the stage that is handed in, when it is asked for, and none is kept from elsewhere:
 * mirror.test.ts hands in another tenant in the place of globex, which has the ids of acme.
 */
export interface Attempt {
  /** What is named, as the name of the test says it. */
  readonly what: string;
  /** The token of the attacker; undefined: none. */
  readonly as: (stage: Stage) => string | undefined;
  readonly foreign: (stage: Stage) => string | Promise<string>;
  /** What nobody has, and looks like the foreign one. */
  readonly unknown: (foreign: string) => string;
  /** The answer to the foreign and to the unknown one, or a part of it. */
  readonly answer: ExpectedAnswer;
  /** What the attacker may name, and what that is answered: so that the request is known to be a good one. */
  readonly own?: { readonly named: Attempt['foreign']; readonly answer: ExpectedAnswer };
  /** The tables in which the tenant of the attacker may get rows by it. */
  readonly writes: readonly string[];
}

interface ExpectedAnswer {
  readonly status: number;
  readonly headers?: object;
  readonly body?: object;
}

/** An operation that takes parameters. */
export interface Entry {
  /** A request in which everything but the parameter is good. `token` is that of the caller, if there is one. */
  readonly request: (stage: Stage, parameter: ParameterKey, token: string | undefined) => Carried;
  /**
   * For each parameter how it is attacked, or a sentence that says why nothing can be named by it. `**` stands for all
   * that is deeper.
   */
  readonly parameters: Readonly<Partial<Record<ParameterKey, string | readonly Attempt[]>>>;
}

/** What is attacked by whom: a sentence stands for an operation without parameters. */
export type Table = Readonly<Partial<Record<OperationKey, string | Entry>>>;

/** The entry of a parameter, by its own key or by one that ends with `**`. */
export function lineOf({ parameters }: Entry, parameter: ParameterKey): ParameterKey | undefined {
  const keys = Object.keys(parameters) as ParameterKey[];
  return keys.find(
    (key) => key === parameter || (key.endsWith('**') && parameter.startsWith(key.slice(0, -2))),
  );
}

/** The request of an operation that names nobody else. */
export function goodRequest(
  table: Table,
  key: OperationKey,
  stage: Stage,
  token: string | undefined,
): Carried {
  const entry = table[key];
  return typeof entry === 'object' ? entry.request(stage, 'body /', token) : {};
}

/** Something that nobody has, of the same length and of the same kind. */
export function nobodys(foreign: string): string {
  if (/^[0-9a-f]{8}-[0-9a-f-]{27}$/.test(foreign)) return randomUUID();
  // Ahead of every log.
  if (/^\d{15,16}$/.test(foreign))
    return String(Math.min(Number('9'.repeat(foreign.length)), Number.MAX_SAFE_INTEGER));
  return randomBytes(foreign.length).toString('base64url').slice(0, foreign.length);
}

/** The position before, at which there is nothing. */
export const justBefore = (position: string): string => String(Number(position) - 1);

/* Who attacks. */
export const alice = ({ acme }: Stage) => acme.user('alice', { topics: ['news'] });
/** A user who has no device yet. */
export const carol = ({ acme }: Stage) => acme.user('carol', { topics: ['news'] });
export const billing = ({ acme }: Stage) => acme.billing;
export const shop = ({ acme }: Stage) => acme.shop;
export const operator = ({ acme }: Stage) => acme.operator;
export const admin = ({ acme }: Stage) => acme.admin;
export const nobody = () => undefined;

export const refused = (status: number, code: string) => ({ status, body: { code } });
export const NOT_FOUND = refused(404, 'not_found');
export const NOT_VALID = refused(400, 'validation_failed');
export const NO_SCOPE = refused(403, 'scope_missing');
export const NOTHING = { status: 200, body: { items: [], nextCursor: null } };

/** Fills in what most attempts have in common: something unknown of the same kind, and nothing that may be written. */
export const attempt = (
  given: Pick<Attempt, 'what' | 'as' | 'foreign' | 'answer'> & Partial<Attempt>,
): Attempt => ({ unknown: nobodys, writes: [], ...given });

/**
 * `nextCursor` of a listing, which goes on for none but the caller of the tenant that got it: what the caller of the same name
 * got in the other tenant is no cursor. The listing may be one of users.
 *
 * @param path of the listing, which has more than one item in every tenant
 */
export const cursor = (
  as: (stage: Stage) => string,
  path: (tenant: Tenant) => string,
): readonly Attempt[] => {
  const of = (stage: Stage, tenant: Tenant) =>
    cursorOf(stage.node.url, path(tenant), as({ ...stage, acme: tenant }));
  return [
    attempt({
      what: 'a cursor of another tenant',
      as,
      foreign: (stage) => of(stage, stage.globex),
      own: { named: (stage) => of(stage, stage.acme), answer: { status: 200 } },
      answer: NOT_VALID,
    }),
  ];
};

/* Why nothing can be named by a parameter. */
export const NUMBER = 'counts something';
export const TIME = 'is a time; what was at that time is looked up in the tenant of the token alone';
export const FIXED = 'is one of a few words that are the same for all';
export const LABEL = 'is kept as it is, for readers; nothing is looked up by it';
