import { WORDS, type Books, type Finding } from './books.ts';
import type { BusKind, Kind } from './schedule.ts';

export interface FaultRecord {
  readonly kind: Kind;
  /** From its end until everybody had what had been published by then, in ms. */
  readonly healMs: number;
  /** Longest time without a 201 to a tenant, from its beginning until it was healed, in ms. */
  readonly unavailableMs: number;
}

/** What a run says at its end. Times in ms. */
export interface Report {
  readonly seed: number;
  readonly minutes: number;
  readonly nodes: number;
  readonly bus: BusKind;
  readonly devices: number;
  readonly connections: number;
  readonly published: number;
  readonly delivered: number;
  readonly acknowledged: number;
  readonly findings: Readonly<
    Record<Finding, { readonly count: number; readonly examples: readonly string[] }>
  >;
  readonly faults: readonly {
    readonly kind: Kind;
    readonly times: number;
    readonly longestHealMs: number;
    readonly longestUnavailableMs: number;
  }[];
  readonly balanced: boolean;
}

export function reportOf(
  { seed, minutes, nodes, bus }: Pick<Report, 'seed' | 'minutes' | 'nodes' | 'bus'>,
  books: Books,
  records: readonly FaultRecord[],
): Report {
  const findings = Object.fromEntries(
    Object.keys(WORDS).map((name) => [name, books.found.get(name as Finding) ?? { count: 0, examples: [] }]),
  ) as unknown as Report['findings'];
  return {
    seed,
    minutes,
    nodes,
    bus,
    devices: books.devices.length,
    connections: books.devices.reduce((sum, { readings }) => sum + readings.length, 0),
    published: books.published,
    delivered: books.delivered,
    acknowledged: books.acknowledged,
    findings,
    faults: [...Map.groupBy(records, ({ kind }) => kind)].map(([kind, all]) => ({
      kind,
      times: all.length,
      longestHealMs: Math.round(Math.max(...all.map(({ healMs }) => healMs))),
      longestUnavailableMs: Math.round(Math.max(...all.map(({ unavailableMs }) => unavailableMs))),
    })),
    balanced: books.found.size === 0,
  };
}

const seconds = (ms: number): string => (ms / 1_000).toFixed(1).padStart(7);

/** For people. */
export function textOf(report: Report): string {
  const { seed, minutes, nodes, bus, findings, faults, balanced } = report;
  const counts: [string, number][] = [
    ['devices', report.devices],
    ['connections', report.connections],
    ['published', report.published],
    ['delivered', report.delivered],
    ['acknowledgements answered', report.acknowledged],
    ...Object.entries(findings).map(([name, { count }]): [string, number] => [WORDS[name as Finding], count]),
  ];
  const examples = Object.entries(findings).flatMap(([name, found]) =>
    found.count === 0
      ? []
      : [`${WORDS[name as Finding]}:`, ...found.examples.map((example) => `  ${example}`)],
  );
  return [
    ...counts.map(([name, count]) => `${name.padEnd(42)}${String(count).padStart(9)}`),
    '',
    `${'fault'.padEnd(34)}times  to heal  without a 201 (longest, s)`,
    ...faults.map(
      ({ kind, times, longestHealMs, longestUnavailableMs }) =>
        `${kind.padEnd(34)}${String(times).padStart(5)}  ${seconds(longestHealMs)}  ${seconds(longestUnavailableMs)}`,
    ),
    '',
    ...examples,
    balanced
      ? 'The books balance.'
      : `The books do not balance. The same faults again: npm run chaos -- --minutes ${minutes} --seed ${seed} --nodes ${nodes} --bus ${bus}`,
  ].join('\n');
}
