import { bareSockets } from './bare-sockets.ts';
import { centrifugo } from './centrifugo.ts';
import { mercure } from './mercure.ts';
import { nchan } from './nchan.ts';
import { tidings } from './tidings.ts';
import { tutorial } from './tutorial.ts';
import type { Wire } from './wire.ts';

const WIRES = new Map<string, Wire>([
  ['tidings', tidings],
  ['nchan', nchan],
  ['mercure', mercure],
  ['centrifugo', centrifugo],
  ['tutorial', tutorial],
  ['limit', bareSockets],
]);

/** How clients speak to the system of that name. */
export function wireOf(system: string): Wire {
  const wire = WIRES.get(system);
  if (wire === undefined) throw new Error(`nobody here knows how to speak to ${system}`);
  return wire;
}
