/* Arrows run one way: database, config, errors <- log <- ledger <- stream. What looks like a circle goes through the log. */
const FEATURES =
  'admin|audit|auth|changes|cli|database|docs|health|issuers|ledger|log|logging|maintenance|metrics|notifications|privacy|revocations|stream|tenants';

/** A feature may import these features and no others. */
const ALLOWED = {
  database: [],
  metrics: ['auth'],
  logging: ['auth', 'metrics'],
  health: ['auth', 'database'],
  changes: ['database', 'metrics'],
  issuers: ['changes', 'database'],
  tenants: ['changes', 'database'],
  revocations: ['changes', 'database'],
  auth: ['changes', 'database', 'issuers', 'revocations', 'tenants'],
  audit: ['database'],
  log: ['database', 'metrics', 'tenants'],
  ledger: ['auth', 'database', 'log', 'metrics'],
  stream: ['auth', 'changes', 'database', 'health', 'ledger', 'log', 'metrics', 'tenants'],
  notifications: ['auth', 'database', 'health', 'ledger', 'log', 'logging', 'metrics', 'tenants'],
  admin: [
    'audit',
    'auth',
    'changes',
    'database',
    'issuers',
    'notifications',
    'revocations',
    'stream',
    'tenants',
  ],
  privacy: [
    'admin',
    'audit',
    'auth',
    'changes',
    'database',
    'health',
    'log',
    'metrics',
    'notifications',
    'stream',
    'tenants',
  ],
  maintenance: ['database', 'log', 'metrics'],
};

module.exports = {
  forbidden: [
    { name: 'no-circle', severity: 'error', from: {}, to: { circular: true } },
    ...Object.entries(ALLOWED).map(([feature, allowed]) => ({
      name: `${feature}-imports-only-what-is-below-it`,
      severity: 'error',
      from: { path: `^src/${feature}/` },
      to: { path: `^src/(${FEATURES})/`, pathNot: `^src/(${[feature, ...allowed].join('|')})/` },
    })),
    {
      name: 'pure-files-know-no-framework',
      comment: 'A file without a role in its name that is on the hot path is plain TypeScript.',
      severity: 'error',
      from: {
        path: '^src/(raw-json|gather|log/position|log/notification|log/account|ledger/intervals|stream/(frames|tail))\\.ts$',
      },
      to: { path: 'node_modules/(@nestjs|pg|typeorm|fastify)/' },
    },
    {
      name: 'sql-lives-in-stores',
      comment: 'Only stores, the database folder and modules that make pools know the pools.',
      severity: 'error',
      from: {
        path: '^src/',
        pathNot:
          '^src/database/|\\.(store|module)\\.ts$|^src/(log/maintenance-pool|cli/)|^src/(problem\\.filter|main|app)',
      },
      to: { path: '^node_modules/pg/' },
    },
    {
      name: 'product-does-not-import-tests',
      severity: 'error',
      from: { path: '^(src|migrations)/' },
      to: { path: '^test/' },
    },
    {
      name: 'product-uses-no-dev-dependency',
      severity: 'error',
      from: { path: '^(src|migrations)/' },
      to: { dependencyTypes: ['npm-dev'], dependencyTypesNot: ['type-only'] },
    },
  ],
  options: {
    doNotFollow: { path: 'node_modules' },
    tsPreCompilationDeps: true,
    tsConfig: { fileName: 'tsconfig.json' },
    enhancedResolveOptions: { exportsFields: ['exports'], conditionNames: ['import', 'node', 'default'] },
  },
};
