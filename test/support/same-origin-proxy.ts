import {
  createServer,
  request as httpRequest,
  type IncomingMessage,
  type Server,
  type ServerResponse,
} from 'node:http';
import type { AddressInfo } from 'node:net';

/** A page or script that it serves; made anew for each request. */
export type Route = () => { readonly type: string; readonly body: string };

/** A request for the stream, as it came from the browser. */
export interface StreamOpened {
  readonly lastEventId: string | undefined;
  readonly query: URLSearchParams;
  /** What it was answered. */
  status: number | undefined;
  /** Everything that was passed to the browser. */
  text: string;
}

/**
 * What stands between a browser and the service: serves the page, and passes /v1/* on with the token that the page
 * does not hold, since an EventSource cannot set headers.
 */
export class SameOriginProxy {
  readonly streams: StreamOpened[] = [];
  /** The bodies of acknowledgements. */
  readonly acks: string[] = [];
  /** Requests under /v1/ get this answer while it is set, as from a balancer that has no node to ask. */
  status: number | undefined;
  readonly #open = new Map<ServerResponse, IncomingMessage>();

  private constructor(
    readonly url: string,
    private readonly server: Server,
    /** Where the service is; may be changed at any time. */
    public target: string,
    /** What requests are passed on with; may be changed at any time. */
    public token: string,
    private readonly routes: Readonly<Record<string, Route>>,
  ) {}

  static async start(
    target: string,
    token: string,
    routes: Readonly<Record<string, Route>>,
  ): Promise<SameOriginProxy> {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const { port } = server.address() as AddressInfo;
    const proxy = new SameOriginProxy(`http://127.0.0.1:${port}`, server, target, token, routes);
    server.on('request', (request: IncomingMessage, response: ServerResponse) =>
      proxy.#serve(request, response),
    );
    return proxy;
  }

  get openStreams(): number {
    return this.#open.size;
  }

  /** Cuts every stream in the midst of its body. What was written before arrives. */
  cut(): void {
    for (const response of this.#open.keys()) response.socket?.end();
  }

  /** Says this to every browser that has a stream open, as if the service had. Between two events of it. */
  inject(events: string): void {
    for (const response of this.#open.keys()) response.write(events);
  }

  /** Nothing more comes on the streams that are open, and none of them ends: as from a proxy that has lost its way. */
  fallSilent(): void {
    for (const [response, answer] of this.#open) answer.unpipe(response);
  }

  async close(): Promise<void> {
    const closed = new Promise((resolve) => this.server.close(resolve));
    this.server.closeAllConnections();
    await closed;
  }

  #serve(request: IncomingMessage, response: ServerResponse): void {
    const url = new URL(request.url ?? '/', this.url);
    const stream = url.pathname === '/v1/stream' ? this.#note(request, url) : undefined;
    if (url.pathname.startsWith('/v1/')) return this.#pass(request, response, stream);
    const route = this.routes[url.pathname]?.();
    response.writeHead(route === undefined ? 404 : 200, {
      'content-type': route?.type ?? 'text/plain',
      'cache-control': 'no-store',
    });
    response.end(route?.body);
  }

  #note(request: IncomingMessage, url: URL): StreamOpened {
    const lastEventId = request.headers['last-event-id'];
    const opened = {
      lastEventId: lastEventId?.toString(),
      query: url.searchParams,
      status: undefined,
      text: '',
    };
    this.streams.push(opened);
    return opened;
  }

  #pass(request: IncomingMessage, response: ServerResponse, stream: StreamOpened | undefined): void {
    const fail = (status: number) => {
      if (stream !== undefined) stream.status ??= status;
      if (response.headersSent) response.destroy();
      else response.writeHead(status).end();
    };
    if (this.status !== undefined) return fail(this.status);
    const { connection: _, host: __, ...headers } = request.headers;
    const passed = httpRequest(new URL(request.url ?? '/', this.target), {
      method: request.method ?? 'GET',
      headers: { ...headers, authorization: `Bearer ${this.token}` },
      agent: false,
    });
    passed.on('error', () => fail(502));
    passed.on('response', (answer) => {
      const { connection: ___, 'transfer-encoding': ____, ...rest } = answer.headers;
      if (stream !== undefined) {
        stream.status = answer.statusCode;
        this.#open.set(response, answer);
        answer.on('data', (bytes: Buffer) => (stream.text += bytes.toString()));
      }
      response.writeHead(answer.statusCode ?? 502, rest);
      response.flushHeaders();
      answer.on('error', () => response.destroy());
      answer.pipe(response);
    });
    response.on('close', () => {
      this.#open.delete(response);
      passed.destroy();
    });
    if (request.url === '/v1/acks') request.on('data', (bytes: Buffer) => this.acks.push(bytes.toString()));
    request.pipe(passed);
  }
}
