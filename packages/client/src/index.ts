export {
  createTidings,
  type Arrival,
  type Tidings,
  type TidingsEvents,
  type TidingsOptions,
} from './tidings.ts';
export { ServiceError, SignedOut, type GetToken } from './call.ts';
export type { Inbox, InboxOptions, InboxSnapshot, Counts } from './inbox.ts';
export type { Status } from './session.ts';
export type {
  Channel,
  Clock,
  Lifecycle,
  LifecycleEvent,
  Locks,
  Surroundings,
  TextStorage,
} from './surroundings.ts';
export type { DataTypes, Filter, Gap, InboxItem, Notification } from './wire.ts';
