import {
  Controller,
  Get,
  HttpStatus,
  Module,
  Res,
  Inject,
  Injectable,
  type OnApplicationShutdown,
} from '@nestjs/common';
import type { FastifyReply } from 'fastify';
import { z } from 'zod';
import { Bus, BusModule } from '../cluster/bus.ts';
import { AppendPool } from '../postgres/pools.ts';
import { CONNECTIONS } from '../postgres/sessions.ts';
import { Public, RouteSettings } from '../http/access.ts';
import { Describe, json, type Description } from '../http/description.ts';
import { VERSION, type Config, CONFIG, engineUrl, Draining } from '../core/config.ts';
import { migrations } from '../../migrations/migrations.ts';
import { Pool, type Statement } from '../postgres/pool.ts';
import { errorCode } from '../postgres/errors.ts';

export const liveSchema = z
  .strictObject({ status: z.literal('live') })
  .meta({ id: 'Liveness', description: 'The process answers.' });

export const readySchema = z
  .strictObject({
    status: z.enum(['ready', 'draining', 'not-migrated']),
    node: z.string().meta({ description: 'The name of the node that answered.' }),
    version: z.string().meta({ description: 'The version of Tidings that it runs.' }),
    database: z
      .strictObject({
        reachable: z.boolean(),
        milliseconds: z
          .number()
          .nonnegative()
          .meta({ description: 'How long the database took to answer, or to fail.' }),
        error: z
          .string()
          .optional()
          .meta({ description: 'The SQLSTATE or system code of the failure, if it has one.' }),
        writeFailure: z
          .strictObject({
            error: z.string().meta({ description: 'The SQLSTATE of the last one; 53100: the disk is full.' }),
            since: z.iso.datetime().meta({ description: 'When the first one failed.' }),
          })
          .optional()
          .meta({
            description:
              'Set while the database answers and publishes fail because of it; absent again with the first that is stored.',
          }),
      })
      .meta({ description: 'At most a second old.' }),
    bus: z.enum(['alone', 'connected', 'degraded']).meta({
      description:
        'How this node hears of what others store: `alone`, no other one lives; `connected`, at once; `degraded`, by polling, several times a second.',
    }),
  })
  .meta({ id: 'Readiness', description: 'Whether this node takes work, and what it depends on.' });

type Ready = z.infer<typeof readySchema>;

/** A database that takes longer to answer counts as away, in ms. */
const PROBE_TIMEOUT_MS = 1_000;

const LAST_MIGRATION: Statement = {
  name: 'health_last_migration',
  text: `select coalesce((select max(timestamp) from migrations), 0)::float8 as last`,
};

/** Asks the database over a connection of its own, because a probe must not wait behind the work whose health it reports. */
@Injectable()
export class HealthStore implements OnApplicationShutdown {
  readonly #pool: Pool;

  constructor(@Inject(CONFIG) config: Config) {
    this.#pool = new Pool({
      url: engineUrl(config),
      name: 'health',
      connections: CONNECTIONS.health,
      connectTimeoutMs: PROBE_TIMEOUT_MS,
      statementTimeoutMs: PROBE_TIMEOUT_MS,
      preparedStatements: config.DATABASE_PREPARED_STATEMENTS,
    });
  }

  /** The timestamp in the name of the newest migration that ran. Throws the driver's error. */
  async lastMigration(): Promise<number> {
    const rows = await this.#pool.rows<{ last: number }>(LAST_MIGRATION);
    return rows[0]?.last ?? 0;
  }

  async onApplicationShutdown(): Promise<void> {
    await this.#pool.end();
  }
}

/** How long an answer of the database is used again, in ms. Balancers ask often, and from many places. */
const FRESH_MS = 1_000;

/** TypeORM orders migrations by the 13 digits that end their name. */
const NEWEST_MIGRATION = Math.max(...migrations.map(({ name }) => Number(name.slice(-13))));

const UNDEFINED_TABLE = '42P01';

/**
 * A node that is ready wants callers. When the database is away, that is *reported* and the node stays ready. Otherwise all
 * nodes would become unready at once, and the balancer would answer 503, which makes every browser's EventSource give up
 * for ever.
 */
@Injectable()
export class Readiness {
  #migrated = false;
  #probe: { at: number; answer: Promise<Ready['database']> } | undefined;

  constructor(
    private readonly draining: Draining,
    private readonly store: HealthStore,
    private readonly bus: Bus,
    @Inject(CONFIG) private readonly config: Config,
  ) {}

  async report(): Promise<Ready> {
    const now = performance.now();
    if (this.#probe === undefined || now - this.#probe.at > FRESH_MS)
      this.#probe = { at: now, answer: this.#ask(now) };
    const database = await this.#probe.answer;
    const { NODE_NAME: node } = this.config;
    return { status: this.#status(database), node, version: VERSION, database, bus: this.bus.state };
  }

  /** While the database is away nobody knows whether it is migrated, and that alone does not make the node unready. */
  #status(database: Ready['database']): Ready['status'] {
    if (this.draining.announced) return 'draining';
    return this.#migrated || !database.reachable ? 'ready' : 'not-migrated';
  }

  async #ask(start: number): Promise<Ready['database']> {
    const took = () => Math.round((performance.now() - start) * 10) / 10;
    try {
      this.#migrated = (await this.store.lastMigration()) >= NEWEST_MIGRATION;
      return { reachable: true, milliseconds: took() };
    } catch (error) {
      const code = errorCode(error);
      if (code === UNDEFINED_TABLE) {
        this.#migrated = false;
        return { reachable: true, milliseconds: took() };
      }
      return { reachable: false, milliseconds: took(), ...(code === undefined ? {} : { error: code }) };
    }
  }
}

const ready = {
  status: 'ready',
  node: 'node-1',
  version: VERSION,
  database: { reachable: true, milliseconds: 0.8 },
  bus: 'connected',
};

const readyExamples = {
  ready: { summary: 'Everything is there', value: ready },
  away: {
    summary: 'Without its database, and still taking streams',
    value: { ...ready, database: { reachable: false, milliseconds: 1.2, error: 'ECONNREFUSED' } },
  },
  full: {
    summary: 'With a database whose disk is full',
    value: {
      ...ready,
      database: {
        reachable: true,
        milliseconds: 0.8,
        writeFailure: { error: '53100', since: '2026-11-22T17:00:00.000Z' },
      },
    },
  },
};

const liveDescription: Description = {
  id: 'live',
  tag: 'Operation',
  summary: 'Is the process alive?',
  description: 'Asks nothing else. Restart the service when this fails.',
  answers: [json(200, 'It is.', liveSchema, { live: { summary: 'Alive', value: { status: 'live' } } })],
  problems: [],
};

const readyDescription: Description = {
  id: 'ready',
  tag: 'Operation',
  summary: 'Does this node take work?',
  description: `503 only while it shuts down or its tables are missing. A database that is away is *reported* and no
reason to turn callers away: streams stay open, and a balancer's own 503 would make every browser's \`EventSource\`
give up.`,
  answers: [
    json(200, 'It does.', readySchema, readyExamples),
    json(503, 'It does not: `draining` or `not-migrated`.', readySchema, {
      draining: { summary: 'Shutting down', value: { ...ready, status: 'draining' } },
    }),
  ],
  problems: [],
};

@Controller('health')
class HealthController {
  constructor(
    private readonly readiness: Readiness,
    private readonly appends: AppendPool,
  ) {}

  /** 200 as long as the process can answer. It does not ask the database: if that is away, a restart would not help. */
  @Get('live')
  @Describe(liveDescription)
  @Public()
  @RouteSettings({ quiet: true })
  live(@Res({ passthrough: true }) reply: FastifyReply): { status: 'live' } {
    reply.header('cache-control', 'no-store');
    return { status: 'live' };
  }

  /** 200, or 503 while draining or not migrated. */
  @Get('ready')
  @Describe(readyDescription)
  @Public()
  @RouteSettings({ quiet: true })
  async ready(@Res({ passthrough: true }) reply: FastifyReply): Promise<Ready> {
    const report = await this.readiness.report();
    const { failure } = this.appends;
    reply.header('cache-control', 'no-store');
    reply.status(report.status === 'ready' ? HttpStatus.OK : HttpStatus.SERVICE_UNAVAILABLE);
    if (failure === undefined) return report;
    return { ...report, database: { ...report.database, writeFailure: failure } };
  }
}

@Module({
  imports: [BusModule],
  controllers: [HealthController],
  providers: [HealthStore, Readiness],
})
export class HealthModule {}
