import type { Foreign } from '../peers.ts';

/** A server under measure, while it runs. What cannot be measured of it is NaN, and so is what follows from that. */
export interface Running {
  readonly port: number;
  /** Its database, by the login of the superuser, if it has one. */
  readonly databaseUrl?: string;
  /** CPU that its processes have used, user and system, in µs. PostgreSQL's is apart. */
  cpu(): Promise<Cpu>;
  /** Resident memory of its processes, without PostgreSQL, in bytes. */
  memory(): Promise<number>;
  /** Its heap and what belongs to it outside of it, after a collection, in bytes; undefined where there is none. */
  heap?(): Promise<number | undefined>;
  /** Statements that were run so far to open streams and to read the log for them, if PostgreSQL counts them (pg_stat_statements). */
  statements?(): Promise<number>;
  /** Whatever it does after its answers, such as writing receipts, is done when this resolves. */
  settle(): Promise<void>;
  /** Another node on the same database: the port that it listens on. It ends with the first. */
  join?(): Promise<number>;
  stop(): Promise<void>;
}

export interface Cpu {
  readonly service: number;
  readonly database: number;
}

export interface System {
  readonly name: SystemName;
  /** What is true when a publish has been answered, and who may do what: figures mean little without it. */
  readonly contract: string;
  /** What it takes to have one, if it may be missing. */
  readonly peer?: Foreign;
  start(
    settings?: Readonly<Record<string, string>>,
    parameters?: Readonly<Record<string, string>>,
  ): Promise<Running>;
}

export const SYSTEMS = [
  'tidings',
  'nchan',
  'mercure',
  'centrifugo',
  'tutorial',
  'limit',
  'guarded',
  'client',
  'nats',
] as const;
export type SystemName = (typeof SYSTEMS)[number];
