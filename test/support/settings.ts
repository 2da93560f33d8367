import { readConfig, type Config, type Settings } from '../../src/core/config.ts';
import type { Tuning } from '../../src/core/tuning.ts';

/** Settings, as strings like in the environment, and constants of the service (src/core/tuning.ts) in other values, as numbers. */
export type TestSettings = Readonly<Partial<Record<keyof Settings, string>> & Partial<Tuning>>;

export function splitSettings(settings: TestSettings): {
  environment: Record<string, string>;
  tuning: Partial<Tuning>;
} {
  const environment: Record<string, string> = {};
  const tuning: Record<string, number> = {};
  for (const [name, value] of Object.entries(settings)) {
    if (typeof value === 'number') tuning[name] = value;
    else environment[name] = value;
  }
  return { environment, tuning };
}

export function testConfig(settings: TestSettings): Config {
  const { environment, tuning } = splitSettings(settings);
  return readConfig(environment, tuning);
}
