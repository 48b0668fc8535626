// Events to begin with. The data is text, laid out as a person would.

export const SAMPLES = [
  {
    type: "earthquake",
    data: `{
  "place": "4km W of Castaic, CA",
  "magnitude": 2.0,
  "depth_km": 26.5,
  "coordinates": [-118.6672, 34.4945],
  "occurred_at": "2018-02-07T01:26:13.840Z"
}`,
  },
  {
    type: "order.placed",
    data: `{
  "order": "A-10023",
  "customer": "c_481",
  "items": [
    { "sku": "tea-assam-250", "quantity": 2 },
    { "sku": "pot-glass-1l", "quantity": 1 }
  ],
  "total": { "amount": 41.0, "currency": "EUR" }
}`,
  },
  {
    type: "greeting",
    data: `{
  "hello": "world"
}`,
  },
];
