import { z } from 'zod';

export type JsonSchema = Record<string, unknown>;

/** zod's name for a recursive schema that has none. The only one is `z.json()`, any JSON value - and any value is what a schema without rules means. */
const UNNAMED = /^#\/\$defs\/__schema/;

/** Patterns that only repeat a format, at a length that nobody reads. */
const FORMATS_THAT_SAY_ENOUGH = new Set(['date-time', 'uuid']);

/**
 * Turns zod schemas into JSON Schema (2020-12). Schemas with an `id` in their meta become components,
 * each of them once; `input` is what a caller sends, `output` what a caller gets.
 */
export class JsonSchemas {
  readonly components: Record<string, JsonSchema> = {};

  convert(schema: z.ZodType, io: 'input' | 'output'): JsonSchema {
    const {
      $schema: _,
      $defs = {},
      ...root
    } = z.toJSONSchema(schema, {
      io,
      unrepresentable: 'any',
      override: ({ jsonSchema }) => {
        if (FORMATS_THAT_SAY_ENOUGH.has(jsonSchema.format ?? '')) delete jsonSchema.pattern;
      },
    });
    for (const [name, definition] of Object.entries($defs)) {
      if (UNNAMED.test(`#/$defs/${name}`)) continue;
      this.components[name] ??= withoutId(rewrite(definition));
    }
    return asObject(rewrite(root));
  }
}

/** Points references at the components. */
function rewrite(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(rewrite);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).flatMap(([key, item]) => {
      if (key !== '$ref' || typeof item !== 'string') return [[key, rewrite(item)]];
      return UNNAMED.test(item) ? [] : [[key, item.replace('#/$defs/', '#/components/schemas/')]];
    }),
  );
}

function asObject(value: unknown): JsonSchema {
  return typeof value === 'object' && value !== null ? { ...value } : {};
}

function withoutId(value: unknown): JsonSchema {
  const { id: _, $id: __, ...rest } = asObject(value);
  return rest;
}
