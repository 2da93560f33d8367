/** Scopes that only services and operators hold. A token with one of them is a service token and cannot open a stream (RFC 8725 §3.12). */
export const SERVICE_SCOPES = [
  'notifications:publish',
  // To everyone of the tenant; beside `notifications:publish`, not in its place.
  'notifications:broadcast',
  'history:read',
  'operations:write',
  'tenants:admin',
] as const;
export type ServiceScope = (typeof SERVICE_SCOPES)[number];
