import { randomBytes } from 'node:crypto';

/** For a node whose name does not matter: nodes that live at the same time cannot have the same. */
export const uniqueNodeName = (): string => `node-${randomBytes(6).toString('hex')}`;
