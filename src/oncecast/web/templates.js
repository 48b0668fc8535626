// Example events. The data is text, to keep its layout.

export const TEMPLATES = {
  earthquake: {
    type: "earthquake",
    data: `{
  "place": "4km W of Castaic, CA",
  "magnitude": 2.0,
  "depth_km": 26.5,
  "coordinates": [-118.6672, 34.4945],
  "occurred_at": "2018-02-07T01:26:13.840Z"
}`,
  },
  order: {
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
  push: {
    type: "github.push",
    data: `{
  "ref": "refs/heads/main",
  "before": "6113728f27ae82c7b1a177c8d03f9e96e0adf246",
  "after": "59b20b8d5c6ff8d09518454d4dd8b7b30f095ab5",
  "repository": { "full_name": "example/shop", "private": false },
  "pusher": { "name": "release-bot" },
  "commits": [
    {
      "id": "59b20b8d5c6ff8d09518454d4dd8b7b30f095ab5",
      "message": "Prices are kept in cents",
      "modified": ["shop/prices.py"]
    }
  ]
}`,
  },
  greeting: {
    type: "greeting",
    data: `{
  "hello": "world"
}`,
  },
};
