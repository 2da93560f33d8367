import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net';

/** How a connection is lost: `reset` drops what was not read yet, `close` ends it as if all had been sent. */
export type Loss = 'reset' | 'close';

interface Link {
  readonly client: Socket;
  readonly service: Socket;
  /** The end of what was passed on, in case the text that is waited for begins in it. */
  carry: string;
}

/** A TCP proxy in front of the service, which loses connections when a test says so. */
export class CuttingProxy {
  /** The heads of the requests that were passed on, in order, in lower case. */
  readonly requests: string[] = [];
  /** While it is set, connections are lost as soon as they are made. */
  away = false;
  readonly #links = new Set<Link>();
  #trap: { readonly text: string; readonly sprung: () => void } | undefined;

  private constructor(
    readonly url: string,
    private readonly server: Server,
  ) {}

  static async start(target: string): Promise<CuttingProxy> {
    const { hostname, port } = new URL(target);
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const own = server.address() as AddressInfo;
    const proxy = new CuttingProxy(`http://127.0.0.1:${own.port}`, server);
    server.on('connection', (client) => proxy.#pass(client, connect(Number(port), hostname)));
    return proxy;
  }

  /** The `Last-Event-ID` of each request for a stream. */
  get positions(): (string | undefined)[] {
    return this.requests
      .filter((head) => head.startsWith('get /v1/stream'))
      .map((head) => /^last-event-id: (.*)$/m.exec(head)?.[1]?.trim());
  }

  cut(loss: Loss): void {
    for (const link of this.#links) sever(link, loss);
  }

  /** Cuts a connection once, right after this text went through it to the client. Resolves when that has happened. */
  cutAfter(text: string): Promise<void> {
    return new Promise((resolve) => {
      this.#trap = { text, sprung: resolve };
    });
  }

  async close(): Promise<void> {
    const closed = new Promise((resolve) => this.server.close(resolve));
    this.away = true;
    this.cut('reset');
    await closed;
  }

  #pass(client: Socket, service: Socket): void {
    const link: Link = { client, service, carry: '' };
    this.#links.add(link);
    // A proxy adds no pause of its own, as two that wait for one another's bytes do.
    client.setNoDelay();
    service.setNoDelay();
    // Lost connections are what this is for.
    client.on('error', () => service.destroy());
    service.on('error', () => client.destroy());
    client.on('close', () => {
      this.#links.delete(link);
      service.destroy();
    });
    if (this.away) return sever(link, 'reset');
    // A client may send more than one request on a connection, each head in a piece of its own.
    client.on('data', (piece: Buffer) => {
      const head = piece.toString('latin1').toLowerCase();
      if (/^[a-z]+ \S+ http\/1\.1\r\n/.test(head)) this.requests.push(head);
    });
    client.pipe(service);
    service.on('data', (bytes: Buffer) => this.#forward(link, bytes));
    service.on('end', () => client.end());
  }

  #forward(link: Link, bytes: Buffer): void {
    if (link.client.writableEnded) return;
    if (this.#trap === undefined) {
      link.client.write(bytes);
      return;
    }
    const { text, sprung } = this.#trap;
    const passing = link.carry + bytes.toString('latin1');
    const found = passing.indexOf(text);
    if (found === -1) {
      link.carry = passing.slice(-text.length);
      link.client.write(bytes);
      return;
    }
    this.#trap = undefined;
    link.client.write(bytes.subarray(0, found + text.length - link.carry.length));
    sever(link, 'close');
    sprung();
  }
}

function sever({ client, service }: Link, loss: Loss): void {
  service.destroy();
  if (loss === 'reset') client.resetAndDestroy();
  else client.end();
}
