import { expect, test } from '@jest/globals';
import { faultOfVersion } from '../../src/postgres/open-database.ts';

test.each([130_022, 149_999])(
  'a server of version %d is too old, and its major version is told',
  (version) => {
    expect(faultOfVersion(version)).toBe(
      `it is PostgreSQL ${Math.floor(version / 10_000)}, and 15 or newer is needed`,
    );
  },
);

test.each([150_000, 180_001])('a server of version %d will do', (version) => {
  expect(faultOfVersion(version)).toBeUndefined();
});
