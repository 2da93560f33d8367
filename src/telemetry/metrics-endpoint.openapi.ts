import type { Description } from '../http/description.ts';

const METRICS = `# HELP tidings_connections Open streams.
# TYPE tidings_connections gauge
tidings_connections 1204
`;

export const metricsDescription: Description = {
  id: 'metrics',
  tag: 'Operation',
  summary: 'Metrics of this node',
  description:
    'In the text format of Prometheus. No metric names a tenant. Not here, but at an address of their own, if `METRICS_PORT` is set.',
  answers: [
    { status: 200, description: 'All metrics.', content: [{ mediaType: 'text/plain', text: METRICS }] },
  ],
  problems: ['not_found'],
};
