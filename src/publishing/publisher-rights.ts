import { scopeMissing } from '../auth/bearer.ts';
import type { Principal } from '../http/principal.ts';
import { Problem } from '../core/errors.ts';
import type { BroadcastRecipient } from './publication.ts';

/**
 * Whether a publisher may address what it addresses: everyone by a scope of its own, and of topics those of its token, if
 * that has a list of them. The list is about topics alone; users are everybody's, and everyone is the scope's.
 *
 * @throws Problem `scope_missing` or `topic_forbidden` (403), with a pointer to each recipient
 */
export function checkRights({ scopes, publishesTo }: Principal, wide: readonly BroadcastRecipient[]): void {
  if (!scopes.has('notifications:broadcast')) {
    const everyone = wide.filter(({ topic }) => topic === undefined);
    if (everyone.length > 0) {
      const detail = 'takes the scope notifications:broadcast';
      throw scopeMissing(
        ['notifications:broadcast'],
        everyone.map(({ pointer }) => ({ pointer: `${pointer}/everyone`, detail })),
      );
    }
  }
  if (publishesTo === undefined) return;
  const foreign = wide.filter(({ topic }) => topic !== undefined && !publishesTo.has(topic));
  if (foreign.length === 0) return;
  throw new Problem('topic_forbidden', 'The token does not carry every topic that is published to.', {
    errors: foreign.map(({ pointer }) => ({
      pointer: `${pointer}/topic`,
      detail: 'is not among the topics of the token',
    })),
  });
}
