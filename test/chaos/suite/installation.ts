import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { throughPort } from '../../support/database.ts';
import { eventually } from '../../support/eventually.ts';
import { ownPort } from '../../support/own-port.ts';
import { startPostgres, type PostgresServer } from '../../support/postgres-server.ts';
import { ServiceProcess } from '../../support/service-process.ts';
import type { Books } from './books.ts';
import { Link } from './link.ts';
import type { BusKind } from './schedule.ts';

export const NATS_SERVER = '/usr/sbin/nats-server';

const OTHER_CLOCK = new URL('../../support/other-clock.mjs', import.meta.url);

/** Often enough that a client can take a silent stream for dead after a few seconds. */
export const HEARTBEAT_SECONDS = 2;

/** What a supervisor waits before it starts a node again, in ms. */
const RESTART_MS = 500;

/** So long may a server take to start again while the machine is busy, in ms. */
const PATIENCE = { within: 300_000, every: 100 };

/** Everything that runs: the database, the bus, the nodes, and the ways between them. */
export class Installation {
  private constructor(
    readonly postgres: PostgresServer,
    readonly nats: Nats | undefined,
    readonly nodes: readonly Node[],
  ) {}

  static async start(nodes: number, bus: BusKind, books: Books): Promise<Installation> {
    const postgres = await startPostgres({ max_connections: '300' });
    const nats = bus === 'nats' ? await Nats.start() : undefined;
    const started: Node[] = [];
    const installation = new Installation(postgres, nats, started);
    try {
      for (let n = 1; n <= nodes; n += 1) started.push(await Node.start(`node-${n}`, postgres, nats, books));
      await Promise.all(started.map((node) => node.ready()));
      return installation;
    } catch (error) {
      await installation.end();
      throw error;
    }
  }

  /** Where clients reach the nodes. */
  get urls(): readonly string[] {
    return this.nodes.map(({ url }) => url);
  }

  /** By the superuser, past all faults of the network. */
  async withDatabase<Result>(work: (client: pg.Client) => Promise<Result>): Promise<Result> {
    const client = new pg.Client({ connectionString: this.postgres.url });
    // It may be killed under this.
    client.on('error', () => undefined);
    await client.connect();
    try {
      return await work(client);
    } finally {
      await client.end().catch(() => undefined);
    }
  }

  /** The same, once the database is there: another fault may have taken it away. */
  async onceThere<Result>(work: (client: pg.Client) => Promise<Result>): Promise<Result> {
    return await eventually(() => this.withDatabase(work), PATIENCE);
  }

  async killPostgres(): Promise<void> {
    await this.postgres.kill();
  }

  /** What the killed one has left may be in its way for a moment. */
  async startPostgres(): Promise<void> {
    await eventually(() => this.postgres.start(), PATIENCE);
    await this.answers();
  }

  /** Waits until the database answers. */
  async answers(): Promise<void> {
    await this.onceThere((client) => client.query('select 1'));
  }

  /** The processes of the database, the first of which starts the others. */
  async postgresProcesses(): Promise<number[]> {
    return await this.onceThere(async (client) => {
      const { rows } = await client.query<{ pid: number }>('select pg_backend_pid() as pid');
      const status = await readFile(`/proc/${rows[0]?.pid ?? 0}/status`, 'utf8');
      const parent = Number(/^PPid:\s+(\d+)/m.exec(status)?.[1]);
      const children = await readFile(`/proc/${parent}/task/${parent}/children`, 'utf8');
      return [parent, ...children.trim().split(' ').map(Number)];
    });
  }

  async end(): Promise<void> {
    await Promise.all(this.nodes.map((node) => node.end()));
    await this.nats?.end();
    await this.postgres.remove();
  }
}

/** One node, which is started again whenever it ends, as by a supervisor, with its name and its address. */
export class Node {
  #process: ServiceProcess | undefined;
  #clockMs = 0;
  /** Its end is what was wanted. */
  #told = false;
  #ending = false;
  #life: Promise<void> = Promise.resolve();

  private constructor(
    readonly name: string,
    private readonly port: number,
    private readonly postgres: PostgresServer,
    private readonly books: Books,
    readonly links: { readonly clients: Link; readonly database: Link; readonly nats: Link | undefined },
  ) {}

  static async start(
    name: string,
    postgres: PostgresServer,
    nats: Nats | undefined,
    books: Books,
  ): Promise<Node> {
    const port = await ownPort();
    const node = new Node(name, port, postgres, books, {
      clients: await Link.start(port),
      database: await Link.start(Number(new URL(postgres.url).port)),
      nats: nats && (await Link.start(nats.port)),
    });
    node.#life = node.#live();
    return node;
  }

  get url(): string {
    return `http://127.0.0.1:${this.links.clients.port}`;
  }

  /** Waits until it takes work, whatever happens to it meanwhile. */
  async ready(): Promise<void> {
    await eventually(async () => {
      const signal = AbortSignal.timeout(10_000);
      const { ok } = await fetch(`http://127.0.0.1:${this.port}/health/ready`, { signal });
      if (!ok) throw new Error(`${this.name} is not ready.`);
    }, PATIENCE);
  }

  kill(signal: NodeJS.Signals): void {
    if (signal === 'SIGKILL' || signal === 'SIGTERM') this.#told = true;
    this.#process?.kill(signal);
  }

  /** From its next start on its clock is wrong by so much. */
  setClock(ms: number): void {
    this.#clockMs = ms;
  }

  async end(): Promise<void> {
    this.#ending = true;
    this.kill('SIGCONT');
    await this.#process?.end();
    await this.#life;
    for (const link of Object.values(this.links)) await link?.close();
  }

  async #live(): Promise<void> {
    while (!this.#ending) {
      const { database, nats } = this.links;
      const service = await ServiceProcess.launch(throughPort(this.postgres, database.port), {
        NODE_NAME: this.name,
        PORT: String(this.port),
        HEARTBEAT_SECONDS: String(HEARTBEAT_SECONDS),
        ...(nats === undefined ? {} : { NATS_URL: `nats://127.0.0.1:${nats.port}` }),
        ...(this.#clockMs === 0 ? {} : { NODE_OPTIONS: `--import=${OTHER_CLOCK.href}?ms=${this.#clockMs}` }),
      });
      this.#process = service;
      this.#told = false;
      const worked = hasWorked(service);
      // `end` came while it was started.
      if (this.#ending) service.kill('SIGKILL');
      const exit = await service.ended;
      if ((await worked) && !this.#told && !this.#ending)
        this.books.find(
          'strange',
          `${this.name} ended by itself with ${JSON.stringify(exit)}: ${`${service.stderr}${service.stdout}`.slice(-1_000)}`,
        );
      await sleep(RESTART_MS);
    }
  }
}

/** Whether it has ever taken work. Without a database there is no start. */
async function hasWorked(service: ServiceProcess): Promise<boolean> {
  try {
    await service.ready();
    return service.exit === undefined;
  } catch {
    return false;
  }
}

/** A nats-server, always on the same port. */
export class Nats {
  #child: ChildProcess | undefined;

  private constructor(readonly port: number) {}

  static async start(): Promise<Nats> {
    const nats = new Nats(await ownPort());
    await nats.start();
    return nats;
  }

  async start(): Promise<void> {
    const child = spawn(NATS_SERVER, ['-a', '127.0.0.1', '-p', String(this.port)], { stdio: 'ignore' });
    this.#child = child;
    process.once('exit', () => child.kill('SIGKILL'));
    await once(child, 'spawn');
    await eventually(async () => {
      const socket = connect(this.port, '127.0.0.1');
      await once(socket, 'connect').finally(() => socket.destroy());
    }, PATIENCE);
  }

  signal(signal: NodeJS.Signals): void {
    this.#child?.kill(signal);
  }

  async kill(): Promise<void> {
    const child = this.#child;
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
    const ended = once(child, 'exit');
    child.kill('SIGKILL');
    await ended;
  }

  async end(): Promise<void> {
    await this.kill();
  }
}
