import { z } from 'zod';
import { json, type Description } from '../http/description.ts';

export const openApiDescription: Description = {
  id: 'openApi',
  tag: 'Operation',
  summary: 'This document',
  description: 'OpenAPI 3.1, made from the schemas that the service validates with.',
  answers: [
    json(200, 'The document.', z.looseObject({ openapi: z.string() }), {
      start: { summary: 'Its beginning', value: { openapi: '3.1.1' } },
    }),
  ],
  problems: [],
};

const page = (id: string, summary: string, description: string): Description => ({
  id,
  tag: 'Operation',
  summary,
  description,
  answers: [
    { status: 200, description: 'The page.', content: [{ mediaType: 'text/html', text: '<!doctype html>' }] },
  ],
  problems: [],
});

export const apiReferenceDescription = page(
  'apiReference',
  'The API reference',
  'This document as a page, to read and to try.',
);

export const errorReferenceDescription = page(
  'errorReference',
  'The error reference',
  'Every error code, and what to do about it.',
);

export const docsAssetDescription: Description = {
  id: 'docsAsset',
  tag: 'Operation',
  summary: 'Scripts and styles of these pages',
  description: 'Served from here; nothing is loaded from elsewhere.',
  pathParameters: z.object({ name: z.string() }),
  answers: [
    {
      status: 200,
      description: 'The file.',
      content: [
        { mediaType: 'text/javascript', text: '' },
        { mediaType: 'text/css', text: '' },
      ],
    },
  ],
  problems: ['not_found'],
};
