/* https://www.postgresql.org/docs/current/protocol-message-formats.html */
export const PARSE = 'P';
export const BIND = 'B';
export const QUERY = 'Q';
export const SYNC = 'S';
export const READY = 'Z';

export const typeOf = (message: Buffer): string => message.toString('latin1', 0, 1);

/** The strings that end with a NUL, from `start` on, as many as there are. */
function stringsFrom(message: Buffer, start: number, most: number): string[] {
  const strings: string[] = [];
  for (let from = start; strings.length < most && from < message.length;) {
    const end = message.indexOf(0, from);
    strings.push(message.toString('utf8', from, end));
    from = end + 1;
  }
  return strings;
}

/** The name of the statement that a Bind message runs. */
export function boundStatement(message: Buffer): string | undefined {
  return typeOf(message) === BIND ? stringsFrom(message, 5, 2)[1] : undefined;
}

/** The name and the text of the statement that a Parse message prepares. */
export function parsedStatement(message: Buffer): { name: string; text: string } | undefined {
  if (typeOf(message) !== PARSE) return undefined;
  const [name = '', text = ''] = stringsFrom(message, 5, 2);
  return { name, text };
}

/** The text of a simple Query message. */
export function queriedText(message: Buffer): string | undefined {
  return typeOf(message) === QUERY ? stringsFrom(message, 5, 1)[0] : undefined;
}

/** The parameters of the first message of a client: `user`, `database`, `application_name` and others. */
export function startupParameters(message: Buffer): Map<string, string> {
  const words = stringsFrom(message, 8, Infinity);
  const pairs = words.flatMap((name, i): [string, string][] =>
    i % 2 === 0 && name !== '' ? [[name, words[i + 1] ?? '']] : [],
  );
  return new Map(pairs);
}

/** Cuts a stream of bytes into the messages of the protocol. */
export class Messages {
  #rest: Buffer = Buffer.alloc(0);

  /** The first message of a client has no type, only a length. */
  constructor(private untyped: boolean) {}

  split(bytes: Buffer): Buffer[] {
    this.#rest = Buffer.concat([this.#rest, bytes]);
    const messages: Buffer[] = [];
    for (;;) {
      const head = this.untyped ? 0 : 1;
      const length = this.#rest.length < head + 4 ? Infinity : head + this.#rest.readInt32BE(head);
      if (this.#rest.length < length) return messages;
      messages.push(this.#rest.subarray(0, length));
      this.#rest = this.#rest.subarray(length);
      this.untyped = false;
    }
  }
}
