import { connect, type Socket } from 'node:net';

/** One answer as it was on the wire. */
export interface RawAnswer {
  readonly status: number;
  /** Names in lower case. */
  readonly headers: Readonly<Record<string, string>>;
  /** What there is of it, without chunks. */
  readonly body: string;
  /** Whether its end has come; what only the end of the connection ends has none. */
  readonly complete: boolean;
}

/** A connection on which a test says every byte itself, as many requests at once as it likes. */
export class RawConnection {
  /** Everything that came, one character for each byte. */
  raw = '';
  /** Resolves when the service has closed it. */
  readonly closed: Promise<void>;
  readonly #waiting = new Set<() => void>();

  private constructor(readonly socket: Socket) {
    socket.setEncoding('latin1').on('data', (text: string) => {
      this.raw += text;
      for (const look of this.#waiting) look();
    });
    socket.on('error', () => undefined);
    this.closed = new Promise((resolve) => {
      socket.on('close', () => {
        resolve();
        for (const look of this.#waiting) look();
      });
    });
  }

  static async open(url: string): Promise<RawConnection> {
    const { hostname, port } = new URL(url);
    const socket = connect(Number(port), hostname);
    await new Promise((resolve, reject) => socket.on('connect', resolve).on('error', reject));
    return new RawConnection(socket);
  }

  get answers(): RawAnswer[] {
    return answersIn(this.raw);
  }

  send(...requests: readonly string[]): void {
    this.socket.write(requests.join(''), 'latin1');
  }

  /** Waits until `check` gives something, looking again whenever bytes arrive. */
  async until<Found>(
    check: (answers: RawAnswer[]) => Found | undefined | false,
    what: string,
  ): Promise<Found> {
    return await new Promise((resolve, reject) => {
      const look = (): void => {
        const found = check(this.answers);
        if ((found === undefined || found === false) && !this.socket.destroyed) return;
        this.#waiting.delete(look);
        if (found === undefined || found === false)
          reject(new Error(`the connection ended before ${what}; it had: ${this.raw.slice(-600)}`));
        else resolve(found);
      };
      this.#waiting.add(look);
      look();
    });
  }
}

interface RequestParts {
  method?: string;
  token?: string;
  body?: unknown;
  headers?: Record<string, string>;
  version?: '1.0' | '1.1';
}

/** A request as it is on the wire. */
export function requestText(path: string, parts: RequestParts = {}): string {
  const { token, body, headers = {}, version = '1.1' } = parts;
  const { method = body === undefined ? 'GET' : 'POST' } = parts;
  const text = body === undefined ? '' : Buffer.from(JSON.stringify(body)).toString('latin1');
  const lines = [
    `${method} ${path} HTTP/${version}`,
    'host: tidings',
    ...(token === undefined ? [] : [`authorization: Bearer ${token}`]),
    ...(body === undefined ? [] : ['content-type: application/json', `content-length: ${text.length}`]),
    ...Object.entries(headers).map(([name, value]) => `${name}: ${value}`),
  ];
  return `${lines.join('\r\n')}\r\n\r\n${text}`;
}

const STATUS_LINE = 'HTTP/1.1 ';

/** The answers that these bytes are; the last may be a part. Throws where they are no HTTP/1.1 (RFC 9112). */
export function answersIn(raw: string): RawAnswer[] {
  const answers: RawAnswer[] = [];
  let at = 0;
  for (;;) {
    const end = raw.indexOf('\r\n\r\n', at);
    if (end === -1) {
      const rest = raw.slice(at, at + STATUS_LINE.length);
      if (!STATUS_LINE.startsWith(rest)) throw new Error(`no answer begins with: ${raw.slice(at, at + 200)}`);
      return answers;
    }
    const [statusLine = '', ...lines] = raw.slice(at, end).split('\r\n');
    const status = Number(/^HTTP\/1\.1 (\d{3}) /.exec(statusLine)?.[1]);
    if (Number.isNaN(status)) throw new Error(`no answer begins with: ${statusLine}`);
    const headers = Object.fromEntries(
      lines.map((line) => [
        line.slice(0, line.indexOf(':')).toLowerCase(),
        line.slice(line.indexOf(':') + 1).trim(),
      ]),
    );
    const { body, next } = bodyOf(raw, end + 4, headers);
    answers.push({ status, headers, body, complete: next !== undefined });
    if (next === undefined) return answers;
    at = next;
  }
}

/** `next`: where the next answer begins; undefined while this one has not ended. */
function bodyOf(
  raw: string,
  from: number,
  headers: Readonly<Record<string, string>>,
): { body: string; next: number | undefined } {
  if (headers['transfer-encoding'] === 'chunked') return chunksIn(raw, from);
  const length = headers['content-length'];
  if (length === undefined) return { body: raw.slice(from), next: undefined };
  const next = from + Number(length);
  return { body: raw.slice(from, next), next: next > raw.length ? undefined : next };
}

/** The content of chunks (RFC 9112 § 7.1), the last of which may be a part. Throws where there is none. */
export function chunksIn(raw: string, from = 0): { body: string; next: number | undefined } {
  let body = '';
  for (let at = from; ;) {
    const line = raw.indexOf('\r\n', at);
    if (line === -1) return { body, next: undefined };
    const size = raw.slice(at, line);
    if (!/^[0-9a-f]+$/i.test(size)) throw new Error(`no chunk begins with: ${raw.slice(at, at + 200)}`);
    const end = line + 2 + Number.parseInt(size, 16);
    body += raw.slice(line + 2, end);
    if (raw.length < end + 2) return { body, next: undefined };
    if (raw.slice(end, end + 2) !== '\r\n')
      throw new Error(`a chunk ends with: ${raw.slice(end - 20, end + 20)}`);
    at = end + 2;
    if (Number.parseInt(size, 16) === 0) return { body, next: at };
  }
}
