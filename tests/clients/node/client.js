// What fhir-kit-client does with the service; prints what it saw as one JSON object.
import { readFileSync } from 'node:fs';
import * as kit from 'fhir-kit-client';

const Client = kit.Client ?? kit.default;
const given = JSON.parse(readFileSync(process.env.CLIENT_SHARED, 'utf8'));
const baseUrl = process.env.FHIR_BASE;
const clientWith = (token) => new Client({ baseUrl, bearerToken: process.env[token] });
const client = clientWith('FHIR_TOKEN');

async function errorOf(work) {
  try {
    await work();
    return ['none', ''];
  } catch (error) {
    return [error.constructor.name, `${error.response?.status} ${JSON.stringify(error.response?.data)}`];
  }
}

const mrn = 'https://northgate.example.org/mrn|fhir-kit';
const body = JSON.parse(JSON.stringify(given.patient).replace('MRN', 'fhir-kit'));
await client.smartAuthMetadata();
await client.capabilityStatement();
const created = await client.create({ resourceType: 'Patient', body });
const read = await client.read({ resourceType: 'Patient', id: created.id });
const found = await client.search({ resourceType: 'Patient', searchParams: { identifier: mrn } });
const entry = [...Array(given.observations).keys()].map((number) => ({
  fullUrl: `urn:uuid:00000000-0000-4000-8000-0000000003${String(number).padStart(2, '0')}`,
  resource: {
    ...given.observation,
    subject: { reference: `Patient/${created.id}` },
    effectiveDateTime: `2026-01-01T10:${String(number).padStart(2, '0')}:00Z`,
  },
  request: { method: 'POST', url: 'Observation' },
}));
const stored = await client.transaction({ body: { resourceType: 'Bundle', type: 'transaction', entry } });
const paged = [];
let page = await client.search({
  resourceType: 'Observation', searchParams: { patient: created.id, _count: given.page },
});
while (page) {
  paged.push(...page.entry.map((each) => each.resource.id));
  page = await client.nextPage({ bundle: page });
}
const everything = await client.operation({
  name: 'everything', resourceType: 'Patient', id: created.id, method: 'GET', input: { _count: 100 },
});
await client.update({ resourceType: 'Patient', id: created.id, body: { ...read, active: false } });
const updated = await client.read({ resourceType: 'Patient', id: created.id });
console.log(JSON.stringify({
  created: created.id,
  read: [read.gender, read.identifier[0].value],
  found: found.entry.map((each) => each.resource.id),
  stored: stored.entry.map((each) => each.response.status),
  paged,
  everything: everything.entry.map((each) => each.resource.resourceType),
  updated: updated.active,
  errors: {
    404: await errorOf(() => client.read({ resourceType: 'Patient', id: given.absent })),
    400: await errorOf(() => client.create({ resourceType: 'Patient', body: given.invalid })),
    401: await errorOf(() => clientWith('FHIR_BAD_TOKEN').read({ resourceType: 'Patient', id: created.id })),
    403: await errorOf(() => clientWith('FHIR_NARROW_TOKEN').create({ resourceType: 'Patient', body })),
  },
}));
