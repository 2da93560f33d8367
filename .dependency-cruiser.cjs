/*
 * The house has floors: a room may import what is on the floors below, and nothing on its own floor or above. A room tells one
 * above it what happened by an observable: delivery subscribes to what the log has committed.
 */
const FLOORS = [
  ['core', 'concurrency'],
  ['postgres'],
  ['http'],
  ['telemetry'],
  ['cluster'],
  ['health', 'tenants'],
  ['auth'],
  ['log'],
  ['publishing', 'receipts'],
  ['inbox'],
  ['delivery', 'history', 'audit'],
  ['admin'],
  ['privacy', 'maintenance'],
  ['openapi'],
  ['app'],
  ['cli'],
];

const roomsFrom = (floor) => FLOORS.slice(floor).flat().join('|');

module.exports = {
  forbidden: [
    { name: 'no-circle', severity: 'error', from: {}, to: { circular: true } },
    ...FLOORS.map((rooms, floor) => ({
      name: `${rooms.join('-and-')}-import${rooms.length === 1 ? 's' : ''}-only-what-is-below`,
      severity: 'error',
      from: { path: `^src/(${rooms.join('|')})/` },
      // `$1` is the room that imports.
      to: { path: `^src/(${roomsFrom(floor)})/`, pathNot: '^src/$1/' },
    })),
    {
      name: 'every-file-has-a-room',
      severity: 'error',
      from: { path: `^src/(?!(${roomsFrom(0)})/|main\\.ts$)` },
      to: {},
    },
    {
      name: 'pure-files-know-no-framework',
      comment: 'A file without a role in its name that is on the hot path is plain TypeScript.',
      severity: 'error',
      from: {
        path: '^src/(concurrency/.*|core/(position|notification)|http/raw-json|receipts/intervals|delivery/(frames|tail))\\.ts$',
      },
      to: { path: 'node_modules/(@nestjs|pg|typeorm|fastify)/' },
    },
    {
      name: 'postgres-has-the-driver',
      comment: 'A store has its statements run by a pool of the room of PostgreSQL.',
      severity: 'error',
      from: { path: '^src/', pathNot: '^src/postgres/' },
      to: { path: '^node_modules/pg/' },
    },
    {
      name: 'service-knows-no-package',
      comment: 'A package and the service have the protocol in common, and no code.',
      severity: 'error',
      from: { path: '^(src|migrations)/' },
      to: { path: '^packages/' },
    },
    {
      name: 'packages-know-no-service',
      comment: 'Their tests do: they start one by test/support, and compare.',
      severity: 'error',
      from: { path: '^packages/[^/]+/src/' },
      to: { path: '^(src|migrations|scripts|test)/' },
    },
    {
      name: 'product-does-not-import-tests',
      severity: 'error',
      from: { path: '^(src|migrations|packages/[^/]+/src)/' },
      to: { path: '^(test|packages/[^/]+/test)/' },
    },
    {
      name: 'product-uses-no-dev-dependency',
      severity: 'error',
      from: { path: '^(src|migrations|packages/[^/]+/src)/' },
      // A package may use nothing of the root's.
      to: { dependencyTypes: ['npm-dev', 'npm-no-pkg'], dependencyTypesNot: ['type-only'] },
    },
  ],
  options: {
    doNotFollow: { path: 'node_modules' },
    tsPreCompilationDeps: true,
    tsConfig: { fileName: 'tsconfig.json' },
    enhancedResolveOptions: { exportsFields: ['exports'], conditionNames: ['import', 'node', 'default'] },
  },
};
